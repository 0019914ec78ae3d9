"""ResNet-101 as PyTorch's users know it, up to its pooled features."""
import functools

import chainer.functions as F

from chainer_caption.features.encoders.folding import Folded
from chainer_caption.features.encoders.stages import Stage

_STAGES = ((3, 64), (4, 128), (23, 256), (3, 512))      # blocks, and a quarter of the channels that come out


class TorchResNet101(Folded):
    """ResNet-101 (K. He et al., "Deep Residual Learning for Image Recognition", 2015) as torchvision has it; 43 million
    parameters.

    It differs from the authors' own for Caffe, which `others.ResNet101` is: a block's stride is that of its 3 x 3
    convolution and not of the 1 x 1 before, and the pooling after the first convolution is rounded down. Their state
    dicts have the same names and shapes. The features are the mean over all places, (N, 2048), not negative.
    """

    def __init__(self):
        super().__init__()
        self._blocks = []                               # of each: its name, and whether its input is fitted by a link
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

    def stages(self):
        *others, last = self._blocks
        return [Stage('conv1', ('conv1',), self._first),
                *(Stage(block[0][:-1], _links(*block), functools.partial(self._block, *block)) for block in others),
                Stage(last[0][:-1], _links(*last), lambda x: F.mean(self._block(*last, x), axis=(2, 3)))]

    def _first(self, x):
        return F.max_pooling_2d(F.relu(self.conv1(x)), 3, stride=2, pad=1, cover_all=False)

    def _block(self, name, fitted, x):
        h = F.relu(self[name + 'conv1'](x))
        h = self[name + 'conv3'](F.relu(self[name + 'conv2'](h)))
        return F.relu(h + (self[name + 'downsample'](x) if fitted else x))


def _links(name, fitted):
    return tuple(name + part for part in ('conv1', 'conv2', 'conv3', 'downsample')[:4 if fitted else 3])
