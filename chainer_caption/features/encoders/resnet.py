"""torchvision's ResNet-101 up to its pooled features."""
from __future__ import annotations

import functools
from typing import Any

import chainer.functions as F

from chainer_caption.features.encoders.stages import FoldedEncoder, Stage

_STAGES = ((3, 64), (4, 128), (23, 256), (3, 512))      # blocks, and a quarter of their output channels


class TorchResNet101(FoldedEncoder):
    """ResNet-101 (K. He et al., "Deep Residual Learning for Image Recognition", 2015) as torchvision has it; 43 million
    parameters. Unlike the authors' own for Caffe (`encoders.caffe.ResNet101`), whose state dict has the same names and
    shapes, a block has its stride in its 3 x 3 convolution and not in the 1 x 1 before it, and the pooling after the
    first convolution rounds down. The features are the mean over all positions, (N, 2048), not negative."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[str, tuple[str, ...]] = {}   # to the names of its links
        self.convolution('conv1', ('conv1', 'bn1'), 3, 64, 7, stride=2, pad=3)
        channels = 64
        for stage, (count, width) in enumerate(_STAGES, 1):
            for number in range(count):
                stride = 2 if stage > 1 and not number else 1
                ours, theirs = f'layer{stage}_{number}', f'layer{stage}.{number}.'
                layers = [('conv1', 'conv1', 'bn1', channels, width, 1, 1, 0),
                          ('conv2', 'conv2', 'bn2', width, width, 3, stride, 1),
                          ('conv3', 'conv3', 'bn3', width, 4 * width, 1, 1, 0)]
                if not number:                          # the shortcut has a convolution
                    layers.append(('downsample', 'downsample.0', 'downsample.1', channels, 4 * width, 1, stride, 0))
                for layer, conv, norm, *shape in layers:
                    self.convolution(f'{ours}_{layer}', (theirs + conv, theirs + norm), *shape)
                self._blocks[ours] = tuple(f'{ours}_{layer}' for layer, *_ in layers)
                channels = 4 * width

    def stages(self) -> list[Stage]:
        return [Stage('conv1', ('conv1',), self._first),
                *(Stage(name, links, functools.partial(self._block, name)) for name, links in self._blocks.items())]

    def _first(self, x: Any) -> Any:
        return F.max_pooling_2d(F.relu(self.conv1(x)), 3, stride=2, pad=1, cover_all=False)

    def _block(self, name: str, x: Any) -> Any:
        h = F.relu(self[f'{name}_conv1'](x))
        h = self[f'{name}_conv3'](F.relu(self[f'{name}_conv2'](h)))
        h = F.relu(h + (self[f'{name}_downsample'](x) if len(self._blocks[name]) > 3 else x))
        return F.mean(h, axis=(2, 3)) if name == list(self._blocks)[-1] else h
