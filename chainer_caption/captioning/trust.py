"""The familiarity of images and the confidence of their captions, by a model or an ensemble."""
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chainer_caption.captioning.results import Caption
from chainer_caption.errors import InputError
from chainer_caption.models.bundle import Bundle

# Digits after the point: more say nothing, and the last ones would depend on the machine.
_DIGITS = 4


class Trust:
    """Familiarity and confidence by models that see the same features: the mean of theirs, if all of them have one.

    Args:
        bundles, names: The models, at least one, and their names in messages."""

    def __init__(self, bundles: Sequence[Bundle], names: Sequence[str]) -> None:
        found: list[Any] = [bundle.familiarity for bundle in bundles]
        self._uncertain = next((name for name, one in zip(names, found, strict=True)
                                if one is None or one.calibration is None), None)
        self._models = [] if None in found else found

    def of(self, features: Any, captions: Sequence[list[Caption]]) -> Iterator[dict[str, float]]:
        """The `familiarity` and the `confidence` of each image, where they are known; `features` as a model reads them,
        on any device, and the captions of each image, best first."""
        if not self._models:
            return iter([{} for _ in captions])
        nearness = [model.nearness(features) for model in self._models]
        means = {'familiarity': np.mean([model.familiarity(near) for model, near in
                                         zip(self._models, nearness, strict=True)], axis=0)}
        if self.fitted:
            # An image without captions gets none of its own confidence.
            scores = np.array([best[0].log_prob_per_token if best else np.nan for best in captions], float)
            means['confidence'] = np.mean([model.confidence(near, scores) for model, near in
                                           zip(self._models, nearness, strict=True)], axis=0)
        rows = zip(*means.values(), strict=True)
        return ({name: round(float(value), _DIGITS) for name, value in zip(means, row, strict=True)
                 if not np.isnan(value)} for row in rows)

    @property
    def fitted(self) -> bool:
        """Whether there are confidences."""
        return self._uncertain is None

    def check(self, least: float | None) -> None:
        """Raises InputError where captions cannot be chosen by a least confidence."""
        if least is None:
            return
        if not 0 <= least <= 1:
            raise InputError.of('min_confidence', least, 'must be from 0 to 1')
        if not self.fitted:
            raise InputError.of('min_confidence', least, f'the confidence of {self._uncertain} has not been fitted; '
                                'evaluate DATASET -m MODEL --split val --calibrate fits it')
