"""Large arrays that are reused, update after update.

Memory that is new to a process is mapped page by page as it is first written, so a matrix product into a new array of
tens of megabytes takes up to half as long again. CuPy has a pool of memory for this reason; NumPy has none.
"""
from __future__ import annotations

import collections
import threading
from typing import Any

import chainer
import numpy as np

# Free arrays, flat, of float32, the smallest first. More than these few are not kept.
_free: list[np.ndarray] = []
_lock = threading.Lock()
_KEPT = 6

# Arrays given back since the last `acquire`. The garbage collector may call `release` during `acquire`, so it must
# neither wait for the lock nor touch the list; a deque can be appended to at any moment.
_returned: collections.deque[np.ndarray] = collections.deque(maxlen=_KEPT)


def acquire(xp: Any, shape: tuple[int, ...]) -> Any:
    """An uninitialised array to be given back with `release`.

    Args:
        xp: The module numpy or cupy.
        shape: Its shape; it is float32 and C-contiguous.
    """
    if xp is not np:
        return xp.empty(shape, np.float32)
    size = int(np.prod(shape))
    with _lock:
        while _returned:
            _free.append(_returned.popleft())
        _free.sort(key=lambda flat: flat.size)
        # The largest are those worth keeping.
        del _free[:-_KEPT]
        fitting = next((i for i, flat in enumerate(_free) if flat.size >= size), None)
        flat = None if fitting is None else _free.pop(fitting)
    if flat is None:
        # The next one may be somewhat larger: batches differ in their number of words.
        flat = np.empty(size + size // 4, np.float32)
    return flat[:size].reshape(shape)


def release(array: Any) -> None:
    """Gives back an array from `acquire`, which must not be used any more."""
    if not isinstance(array, np.ndarray):
        return
    flat = array
    while flat.base is not None:
        flat = flat.base
    _returned.append(flat)


def column_sums(x: Any) -> Any:
    """The sum of the rows of (n, m): (m,). As a product, which is several times as fast as NumPy's own sum."""
    xp = chainer.backend.get_array_module(x)
    return xp.dot(xp.ones(len(x), x.dtype), x)
