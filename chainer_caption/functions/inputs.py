"""Features as a model reads them: one array of vectors or grids, or a tuple of both."""
from collections.abc import Callable
from typing import Any


def map_inputs(function: Callable, features: Any) -> Any:
    """What a function makes of features; of a tuple, the tuple of what it makes of each."""
    return tuple(map(function, features)) if isinstance(features, tuple) else function(features)


def count_inputs(features: Any) -> int:
    """The number of images."""
    return len(features[0]) if isinstance(features, tuple) else len(features)
