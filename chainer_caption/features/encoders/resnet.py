"""torchvision's ResNet-101 up to its pooled features."""
from __future__ import annotations

import functools
from typing import Any

import chainer.functions as F

from chainer_caption.features.encoders.stages import FoldedEncoder, Stage

_STAGES = ((3, 64), (4, 128), (23, 256), (3, 512))      # blocks, and a quarter of their output channels


class TorchResNet101(FoldedEncoder):
    """ResNet-101 (K. He et al., "Deep Residual Learning for Image Recognition", 2015) as torchvision has it; 43 million
    parameters.

    It differs from the authors' own for Caffe (`encoders.caffe.ResNet101`): a block's stride is in its 3 x 3
    convolution and not in the 1 x 1 before it, and the pooling after the first convolution rounds down. Both state
    dicts have the same names and shapes. The features are the mean over all positions, (N, 2048), not negative.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[tuple[str, bool]] = []       # name, and whether the shortcut has a convolution
        self.convolution('conv1', ('conv1', 'bn1'), 3, 64, 7, stride=2, pad=3)
        channels = 64
        for stage, (count, width) in enumerate(_STAGES, 1):
            for number in range(count):
                stride = 2 if stage > 1 and not number else 1
                ours, theirs = f'layer{stage}_{number}_', f'layer{stage}.{number}.'
                self._blocks.append((ours, not number))
                if not number:
                    self.convolution(ours + 'downsample', (theirs + 'downsample.0', theirs + 'downsample.1'), channels,
                                     4 * width, 1, stride=stride)
                self.convolution(ours + 'conv1', (theirs + 'conv1', theirs + 'bn1'), channels, width, 1)
                self.convolution(ours + 'conv2', (theirs + 'conv2', theirs + 'bn2'), width, width, 3, stride=stride,
                                 pad=1)
                self.convolution(ours + 'conv3', (theirs + 'conv3', theirs + 'bn3'), width, 4 * width, 1)
                channels = 4 * width

    def stages(self) -> list[Stage]:
        *others, last = self._blocks
        return [Stage('conv1', ('conv1',), self._first),
                *(Stage(block[0][:-1], _links(*block), functools.partial(self._block, *block)) for block in others),
                Stage(last[0][:-1], _links(*last), lambda x: F.mean(self._block(*last, x), axis=(2, 3)))]

    def _first(self, x: Any) -> Any:
        return F.max_pooling_2d(F.relu(self.conv1(x)), 3, stride=2, pad=1, cover_all=False)

    def _block(self, name: str, downsample: bool, x: Any) -> Any:
        h = F.relu(self[name + 'conv1'](x))
        h = self[name + 'conv3'](F.relu(self[name + 'conv2'](h)))
        return F.relu(h + (self[name + 'downsample'](x) if downsample else x))


def _links(name: str, downsample: bool) -> tuple[str, ...]:
    return tuple(name + part for part in ('conv1', 'conv2', 'conv3', 'downsample')[:4 if downsample else 3])
