"""Ensembles: several models whose probabilities are averaged at each word."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.functions import Array, add_probabilities
from chainer_caption.models.provenance import compatible, provenance_text

if TYPE_CHECKING:
    from chainer_caption.models.bundle import Bundle


class EnsembleDecoder:
    """Decoders of the same vocabulary, on one device, as one decoder. The score of a word is the logarithm of the mean
    of the models' probabilities; the biases are zero."""

    def __init__(self, decoders: Sequence[Any]) -> None:
        self._decoders, self.device = decoders, decoders[0].device
        self.bias = self.device.xp.zeros_like(decoders[0].bias)

    def start(self, features: Any) -> list[Any]:
        return [decoder.start(features) for decoder in self._decoders]

    def step(self, state: list[Any], parents: np.ndarray, tokens: Array) -> tuple[list[Any], Array]:
        mean, states = None, []
        for decoder, before in zip(self._decoders, state, strict=True):
            after, scores = decoder.step(before, parents, tokens)
            states.append(after)
            mean = self.device.xp.zeros_like(scores) if mean is None else mean
            add_probabilities(scores, decoder.bias, np.float32(1 / len(self._decoders)), mean)
        with np.errstate(divide='ignore'):              # impossible in all models: -inf
            return states, self.device.xp.log(mean, out=mean)


def check_ensemble(bundles: Sequence[Bundle], names: Sequence[str]) -> None:
    """Checks that models, at least one, can form an ensemble. If vocabularies or features differ, an InputError calls
    the first model that does not fit by its name."""
    first, through = bundles[0], 'an ensemble sees each image through one encoder'
    for bundle, name in zip(bundles[1:], names[1:], strict=True):
        if (bundle.vocabulary.words, bundle.tokenizer) != (first.vocabulary.words, first.tokenizer):
            raise InputError(f'{name}: has another vocabulary than {names[0]}; only models with the same words can '
                             'caption together, as models trained on the same dataset with other seeds have')
        if bundle.model.reads != first.model.reads:
            raise InputError(f'{name}: reads {bundle.model.reads}, but {names[0]} {first.model.reads}')
        if bundle.model.feature_size != first.model.feature_size:
            raise InputError(f'{name}: learned from features of {bundle.model.feature_size} numbers, but {names[0]} '
                             f'from {first.model.feature_size}; {through}')
        known = bundle.provenance, first.provenance
        if not (compatible(*known) if all(known) else known == (None, None)):
            raise InputError(f'{name}: learned from features of {provenance_text(bundle.provenance)}, but {names[0]} '
                             f'from those of {provenance_text(first.provenance)}; {through}')
