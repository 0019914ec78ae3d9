"""DemoNet: the small encoder of the embedded dataset, in the place of VGG-19."""
from __future__ import annotations

import functools
from typing import Any

import chainer
import chainer.functions as F
import chainer.links as L

from chainer_caption.features.encoders.stages import Stage, StagedEncoder

STEPS = 4               # features are multiples of 1 / STEPS
THRESHOLD = 5           # in these steps, subtracted before the ReLU; one unit in nine stays above it


class DemoNet(StagedEncoder):
    """Encoder of images of flat shapes, (N, 3, 96, 96), to 4096 rectified features.

    Convolutions describe 6 x 6 positions of the image. A layer above them answers 12 questions about the whole ("how
    many?", "which colour is the first?"), each with a softmax over 9 choices. The last layer, random and not trained,
    distributes the answers over 4096 units. So, as in VGG's features, no unit means anything by itself, and a linear
    layer can read every answer.

    The last layer's weights are whole numbers, and its output is rounded to quarters. So a feature matrix compresses
    well and is the same with any BLAS, since a softmax over confident answers is nearly 0 and 1. Gradients pass the
    rounding unchanged. ``features/demo/make.py`` trains the weights.
    """

    questions, choices = 12, 9

    def __init__(self) -> None:
        super().__init__()
        with self.init_scope():
            self.conv1 = L.Convolution2D(3, 48, 8, stride=4, pad=2, nobias=True)            # 96 -> 24
            self.norm1 = L.BatchNormalization(48)
            self.conv2 = L.Convolution2D(48, 64, 4, stride=2, pad=1, nobias=True)           # 24 -> 12
            self.norm2 = L.BatchNormalization(64)
            self.conv3 = L.Convolution2D(64, 80, 3, pad=1, nobias=True)
            self.norm3 = L.BatchNormalization(80)
            self.conv4 = L.Convolution2D(80, 96, 4, stride=2, pad=1, nobias=True)           # 12 -> 6
            self.norm4 = L.BatchNormalization(96)
            self.conv5 = L.Convolution2D(96, 32, 1, nobias=True)
            self.norm5 = L.BatchNormalization(32)
            self.fc6 = L.Linear(32 * 6 * 6, 384, nobias=True)
            self.norm6 = L.BatchNormalization(384)
            self.fc7 = L.Linear(384, self.questions * self.choices)
            self.fc8 = L.Linear(self.questions * self.choices, 4096, nobias=True)

    def stages(self) -> list[Stage]:
        return [*(Stage(f'conv{layer}', (f'conv{layer}', f'norm{layer}'), functools.partial(self._convolve, layer))
                  for layer in range(1, 6)),
                Stage('fc6', ('fc6', 'norm6'), self._whole),
                Stage('fc7', ('fc7',), lambda h: F.softmax(self._answers(h), axis=1)),
                Stage('fc8', ('fc8',), lambda answers: F.relu(_rounded(self.fc8(answers)) - THRESHOLD) / STEPS)]

    def feature_map(self, x: Any) -> Any:
        """The output of the convolutions, (N, 32, 6, 6)."""
        for layer in range(1, 6):
            x = self._convolve(layer, x)
        return x

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
