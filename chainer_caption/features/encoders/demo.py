"""DemoNet: the small encoder of the embedded dataset, in the place of VGG-19."""
from __future__ import annotations

import functools
from typing import Any

import chainer
import chainer.functions as F
import chainer.links as L

from chainer_caption.features.encoders.stages import Stage, StagedEncoder, run_stages

STEPS = 4               # features are multiples of 1 / STEPS
THRESHOLD = 5           # in these steps, subtracted before the ReLU; one unit in nine stays above it

# Input and output channels, kernel size, stride and padding: from 96 x 96 to 24 x 24, 12 x 12 and 6 x 6 positions.
_CONVOLUTIONS = (3, 48, 8, 4, 2), (48, 64, 4, 2, 1), (64, 80, 3, 1, 1), (80, 96, 4, 2, 1), (96, 32, 1, 1, 0)


class DemoNet(StagedEncoder):
    """Encoder of images of flat shapes, (N, 3, 96, 96), to 4096 rectified features.

    Convolutions describe 6 x 6 positions of the image. A layer above them answers 12 questions about the whole ("how
    many?", "which colour is the first?"), each with a softmax over 9 choices. The last layer, random and not trained,
    distributes the answers over 4096 units: as in VGG's features, no unit means anything by itself, and a linear layer
    can read every answer. Its weights are whole numbers, and its output is rounded to quarters, so that a feature
    matrix compresses well and is the same with any BLAS: a softmax over confident answers is nearly 0 and 1. Gradients
    pass the rounding unchanged. ``features/demo/make.py`` trains the weights."""

    questions, choices = 12, 9

    def __init__(self) -> None:
        super().__init__()
        with self.init_scope():
            for layer, (channels, wider, ksize, stride, pad) in enumerate(_CONVOLUTIONS, 1):
                convolution = L.Convolution2D(channels, wider, ksize, stride, pad, nobias=True)
                setattr(self, f'conv{layer}', convolution)
                setattr(self, f'norm{layer}', L.BatchNormalization(wider))
            self.fc6 = L.Linear(32 * 6 * 6, 384, nobias=True)
            self.norm6 = L.BatchNormalization(384)
            self.fc7 = L.Linear(384, self.questions * self.choices)
            self.fc8 = L.Linear(self.questions * self.choices, 4096, nobias=True)

    def stages(self) -> list[Stage]:
        return [*(Stage(f'conv{n}', (f'conv{n}', f'norm{n}'), functools.partial(self._convolve, n))
                  for n in range(1, len(_CONVOLUTIONS) + 1)), Stage('fc6', ('fc6', 'norm6'), self._whole),
                Stage('fc7', ('fc7',), lambda h: F.softmax(self._answers(h), axis=1)),
                Stage('fc8', ('fc8',), lambda answers: F.relu(_rounded(self.fc8(answers)) - THRESHOLD) / STEPS)]

    def feature_map(self, x: Any) -> Any:
        """The output of the convolutions, (N, 32, 6, 6)."""
        return run_stages(self.stages()[:len(_CONVOLUTIONS)], x)

    def _convolve(self, layer: int, x: Any) -> Any:
        return F.relu(self[f'norm{layer}'](self[f'conv{layer}'](x)))

    def logits(self, feature_map: Any) -> Any:
        """The answers to the questions before their softmax, (N, 9, 12)."""
        return self._answers(self._whole(feature_map))

    def _whole(self, feature_map: Any) -> Any:
        return F.relu(self.norm6(self.fc6(feature_map)))

    def _answers(self, h: Any) -> Any:
        return F.reshape(self.fc7(h), (-1, self.choices, self.questions))


def _rounded(x: Any) -> Any:
    return _Rounded().apply((x,))[0]


class _Rounded(chainer.FunctionNode):
    def forward(self, inputs: tuple) -> tuple:
        x, = inputs
        return chainer.backend.get_array_module(x).floor(x + x.dtype.type(0.5)),

    def backward(self, indexes: tuple, grad_outputs: tuple) -> tuple:
        return grad_outputs
