"""EfficientNet-Lite up to its pooled features: encoders for phones, with a fiftieth of VGG-19's operations or a few."""
from __future__ import annotations

import functools
import math
from typing import Any

import chainer.functions as F

from chainer_caption.features.encoders.stages import FoldedEncoder, Stage

# Of each stage of Lite0: blocks, depthwise kernel size, stride of the first block, expansion of the channels, output
# channels.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))
_STEM, _HEAD = 32, 1280


class EfficientNetLite(FoldedEncoder):
    """EfficientNet-Lite (R. Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020, after M. Tan and
    Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019). A convolution, inverted
    residuals and a 1 x 1 convolution, with ReLU6, without squeeze-and-excitation, with TensorFlow's padding. The
    features are the mean over all positions of the last output, from 0 to 6.

    Args:
        width, depth: Factors of Lite0's channels and blocks. The first and the last convolution keep their channels,
            the first and the last stage their blocks.
    """

    epsilon = 1e-3

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        self._blocks: list[tuple[int, bool]] = []       # stride, and whether there is a skip connection
        self.convolution('stem', ('_conv_stem', '_bn0'), 3, _STEM, 3, stride=2)
        channels = _STEM
        for stage in _STAGES:
            count, ksize, stride, expansion, out = stage
            out = _scaled(out, width)
            for i in range(count if stage in (_STAGES[0], _STAGES[-1]) else math.ceil(count * depth)):
                ours, theirs = f'block{len(self._blocks)}_', f'_blocks.{len(self._blocks)}._'
                wide = channels * expansion
                self._blocks.append((1 if i else stride, i > 0))
                if expansion > 1:
                    self.convolution(ours + 'expand', (theirs + 'expand_conv', theirs + 'bn0'), channels, wide, 1)
                self.convolution(ours + 'depthwise', (theirs + 'depthwise_conv', theirs + 'bn1'), wide, wide, ksize,
                                 stride=self._blocks[-1][0], groups=wide)
                self.convolution(ours + 'project', (theirs + 'project_conv', theirs + 'bn2'), wide, out, 1)
                channels = out
        self.convolution('head', ('_conv_head', '_bn1'), channels, _HEAD, 1)

    def stages(self) -> list[Stage]:
        parts = 'expand', 'depthwise', 'project'        # the first block has no expansion
        blocks = [Stage(f'block{n}', tuple(f'block{n}_{part}' for part in parts[not n:]),
                        functools.partial(self._block, n, skip)) for n, (_, skip) in enumerate(self._blocks)]
        return [Stage('stem', ('stem',), lambda x: _relu6(_same(self.stem, x))), *blocks,
                Stage('head', ('head',), lambda x: F.mean(_relu6(self.head(x)), axis=(2, 3)))]

    def _block(self, number: int, skip: bool, x: Any) -> Any:
        h = _relu6(self[f'block{number}_expand'](x)) if number else x
        h = self[f'block{number}_project'](_relu6(_same(self[f'block{number}_depthwise'], h)))
        return h + x if skip else h


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0: sixteen blocks; 3.4 million parameters and 0.4 billion multiplications at 224 x 224."""


class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2: 21 blocks; 4.8 million parameters and 0.9 billion multiplications at 260 x 260."""

    def __init__(self) -> None:
        super().__init__(1.1, 1.2)


def _scaled(channels: int, width: float) -> int:
    """Channels times the width, to the nearest multiple of 8, or the next one where that is less than 90 percent."""
    wanted = channels * width
    scaled = max(8, int(wanted + 4) // 8 * 8)
    return scaled if scaled >= 0.9 * wanted else scaled + 8


def same_padding(size: int, ksize: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding, before and after, for an output of ceil(size / stride)."""
    total = max((-(-size // stride) - 1) * stride + ksize - size, 0)
    return total // 2, total - total // 2


def _relu6(x: Any) -> Any:
    return F.clipped_relu(x, 6.0)


def _same(layer: Any, x: Any) -> Any:
    (stride, _), ksize = layer.stride, layer.W.shape[2]
    padding = [same_padding(size, ksize, stride) for size in x.shape[2:]]
    return layer(F.pad(x, [(0, 0), (0, 0), *padding], 'constant'))
