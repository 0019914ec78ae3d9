"""Encoders as sequences of stages, so that the upper ones can be computed, and learn, by themselves."""
import dataclasses
from collections.abc import Callable

import chainer

from chainer_caption.errors import InputError


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of an encoder that takes nothing but what the one below it gives.

    Attributes:
        name (str): Its name, which is unique in its encoder.
        links (tuple of str): The encoder's links that it computes with.
        compute (callable): Takes a chainer.Variable or array and gives a chainer.Variable.
    """

    name: str
    links: tuple
    compute: Callable


class Staged(chainer.Chain):
    """An encoder that is a sequence of stages. Its batch normalisation, if it has any left, is to be used as it is
    (`chainer.config.train` is False)."""

    def stages(self):
        """Its stages, from the image up: a list of Stage."""
        raise NotImplementedError

    def forward(self, x):
        """Computes features.

        Args:
            x (chainer.Variable or array): Prepared images, shape (N, 3, S, S), float32.

        Returns:
            chainer.Variable: Shape (N, D), float32.
        """
        return through(self.stages(), x)


def through(stages, x):
    """What stages, one after another, make of `x`."""
    for stage in stages:
        x = stage.compute(x)
    return x


def split(encoder, layer):
    """Cuts an encoder in two.

    Args:
        encoder (chainer.Chain): The encoder.
        layer (str): The name of the upper part's first stage, or of a link in it; `'all'` for the first of all.

    Returns:
        tuple: The stages below, which may be none, and those from there on; two lists of Stage.

    Raises:
        InputError: It has no such stage, or none at all.
    """
    if not isinstance(encoder, Staged):
        raise InputError(f'--finetune {layer}: a {type(encoder).__name__} is computed as a whole and cannot be '
                         'fine-tuned; choose another encoder')
    stages = encoder.stages()
    for at, stage in enumerate(stages):
        if layer in ('all', stage.name, *stage.links):
            return stages[:at], stages[at:]
    raise InputError(f'--finetune {layer}: no layer of the encoder; it has {", ".join(s.name for s in stages)}, or all')
