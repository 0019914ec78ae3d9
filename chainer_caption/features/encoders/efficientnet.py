"""EfficientNet-Lite0 up to its pooled features: made for telephones, a fiftieth of the work of VGG-19."""
import functools

import chainer.functions as F
import numpy as np

from chainer_caption.features.encoders.folding import Folded
from chainer_caption.features.encoders.stages import Stage
from chainer_caption.functions.compiled import parallel_for
from chainer_caption.functions.depthwise import patches
from chainer_caption.functions.inverted_residual import InvertedResidual, Scratch, inverted_residual, same_padding
from chainer_caption.functions.matmul import one_blas_thread

# Blocks of each stage, side of their depthwise filters, stride of the first of them, how many times the channels are
# expanded, and channels that come out.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))
_STEM, _HEAD = 32, 1280


class EfficientNetLite0(Folded):
    """EfficientNet-Lite0 (R. Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020, after M. Tan and
    Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019); 3.4 million parameters.

    A convolution, sixteen inverted residuals and a 1 x 1 convolution, with ReLU6 for an activation, no squeezing and
    exciting, and TensorFlow's padding. The features are the mean over all places of what comes out, from 0 to 6.
    """

    epsilon = 1e-3

    def __init__(self):
        super().__init__()
        self._blocks = []                               # of each: stride, and whether it is skipped, too
        self.convolution('stem', ('_conv_stem', '_bn0'), 3, _STEM, 3, stride=2)
        channels = _STEM
        for count, ksize, stride, expansion, out in _STAGES:
            for first in (True, *[False] * (count - 1)):
                ours, theirs = f'block{len(self._blocks)}_', f'_blocks.{len(self._blocks)}.'
                wide = channels * expansion
                self._blocks.append((stride if first else 1, not first))
                if expansion > 1:
                    self.convolution(ours + 'expand', (theirs + '_expand_conv', theirs + '_bn0'), channels, wide, 1)
                self.convolution(ours + 'depthwise', (theirs + '_depthwise_conv', theirs + '_bn1'), wide, wide, ksize,
                                 stride=self._blocks[-1][0], groups=wide)
                self.convolution(ours + 'project', (theirs + '_project_conv', theirs + '_bn2'), wide, out, 1)
                channels = out
        self.convolution('head', ('_conv_head', '_bn1'), channels, _HEAD, 1)

    def stages(self):
        blocks = [Stage(f'block{number}',
                        tuple(f'block{number}_{part}' for part in ('expand', 'depthwise', 'project')[not number:]),
                        functools.partial(self._block, number, skip)) for number, (_, skip) in enumerate(self._blocks)]
        return [Stage('stem', ('stem',), lambda x: _relu6(_same(self.stem, x))), *blocks,
                Stage('head', ('head',), lambda x: F.mean(_relu6(self.head(x)), axis=(2, 3)))]

    def _block(self, number, skip, x):
        h = _relu6(self[f'block{number}_expand'](x)) if number else x
        h = self[f'block{number}_project'](_relu6(_same(self[f'block{number}_depthwise'], h)))
        return h + x if skip else h

    def inference(self):
        """The encoder for inference on the CPU: several times faster than `forward`, and equal to it.

        Returns:
            callable: As that of `VGG.inference`. An image's features do not depend on those beside it.
        """
        def layer(name):
            return self[name].W.array, self[name].b.array

        # The first block does not expand; what the others do by that, the stem does for it.
        blocks = [InvertedResidual.prepare(layer(f'block{number}_expand' if number else 'stem'),
                                           layer(f'block{number}_depthwise'), layer(f'block{number}_project'),
                                           stride, skip) for number, (stride, skip) in enumerate(self._blocks)]
        head, head_b = np.ascontiguousarray(layer('head')[0].reshape(_HEAD, -1).T), layer('head')[1].copy()

        def through(image, scratch):
            (above, _), (left, _) = (same_padding(size, 3, 2) for size in image.shape[1:])
            height, width = (-(-size // 2) for size in image.shape[1:])

            def stem(first, last):
                seen = scratch.take('patches', (last - first) * width, len(blocks[0].expand))
                patches(image, first, above, left, seen, width)
                return seen

            x = inverted_residual(stem, height, width, blocks[0], scratch, 'even')
            for number, block in enumerate(blocks[1:], 1):
                height, width, _ = x.shape
                x = inverted_residual(lambda first, last, x=x: x[first:last].reshape(-1, x.shape[2]), height, width,
                                      block, scratch, 'odd' if number % 2 else 'even')
            x = x.reshape(-1, x.shape[2]) @ head + head_b
            return np.clip(x, 0, 6).mean(axis=0)

        def compute(x):
            features = np.empty((len(x), _HEAD), np.float32)

            def part(start, stop):
                scratch = Scratch()
                for i in range(start, stop):
                    features[i] = through(np.ascontiguousarray(x[i]), scratch)

            with one_blas_thread():
                parallel_for(part, len(x))
            return features

        return compute


def _relu6(x):
    return F.clipped_relu(x, 6.0)


def _same(layer, x):
    (stride, _), ksize = layer.stride, layer.W.shape[2]
    padding = [same_padding(size, ksize, stride) for size in x.shape[2:]]
    return layer(F.pad(x, [(0, 0), (0, 0), *padding], 'constant'))
