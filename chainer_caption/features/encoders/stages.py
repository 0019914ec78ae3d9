"""Encoders as sequences of stages, whose upper ones can be computed and fine-tuned alone; batch-norm folding."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import chainer
import chainer.links as L

from chainer_caption.errors import InputError
from chainer_caption.functions.convolution_2d import convolution_2d


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of an encoder whose only input is the output of the stage below."""

    name: str                               #: unique in its encoder
    links: tuple[str, ...]                  #: names of the encoder's links that it uses
    compute: Callable[[Any], Any]           #: takes a chainer.Variable or array and returns a chainer.Variable


class StagedEncoder(chainer.Chain):
    """An encoder that is a sequence of stages. Batch normalisation that is not folded uses its running statistics
    (`chainer.config.train` is False)."""

    def stages(self) -> list[Stage]:
        """The stages, from the image up."""
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        """Computes features, (N, D), of prepared images, (N, 3, S, S), float32."""
        return run_stages(self.stages(), x)


class FoldedEncoder(StagedEncoder):
    """A chain of convolutions with biases, into which batch normalisation is folded when weights are loaded: y = gamma
    (W x - mean) / sqrt(var + epsilon) + beta is a convolution itself. Parameters are zero until then."""

    epsilon = 1e-5                          #: what its batch normalisation adds to variances

    def __init__(self) -> None:
        super().__init__()
        #: Name of each link to the names of the convolution and its batch normalisation in PyTorch's state dicts.
        self.torch_layers: dict[str, tuple[str, str]] = {}

    def convolution(self, name: str, torch_names: tuple[str, str], *args: Any, **kwargs: Any) -> None:
        """Adds the link `name`, with further arguments as `L.Convolution2D` takes them."""
        with self.init_scope():
            setattr(self, name, without_gradients(_Convolution(*args, initialW=0, initial_bias=0, **kwargs)))
        self.torch_layers[name] = torch_names


class _Convolution(L.Convolution2D):
    def forward(self, x: Any) -> Any:
        return convolution_2d(x, self.W, self.b, self.stride, self.pad, self.groups)


def without_gradients(layer: Any) -> Any:
    """The link without its gradient arrays, which Chainer allocates beforehand and training when they are needed."""
    layer.cleargrads()
    return layer


def run_stages(stages: Iterable[Stage], x: Any) -> Any:
    """The output of stages, one after another, on `x`."""
    for stage in stages:
        x = stage.compute(x)
    return x


def split(encoder: Any, layer: str) -> tuple[list[Stage], list[Stage]]:
    """Splits an encoder into the stages below a layer, perhaps none, and those from it on. `layer` is the name of the
    upper part's first stage, or of a link in it; `'all'` for the first of all. InputError if there is no such stage."""
    if not isinstance(encoder, StagedEncoder):
        raise InputError.of('finetune', layer, f'a {type(encoder).__name__} is computed as a whole and cannot be '
                            'fine-tuned; choose another encoder')
    stages = encoder.stages()
    for at, stage in enumerate(stages):
        if layer in ('all', stage.name, *stage.links):
            return stages[:at], stages[at:]
    raise InputError.of('finetune', layer,
                        f'no layer of the encoder; it has {", ".join(s.name for s in stages)}, or all')
