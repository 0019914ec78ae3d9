"""VGG-16 and VGG-19 up to fc7, the encoders behind most published caption features."""
import functools

import chainer.functions as F
import chainer.links as L
import numpy as np

from chainer_caption.features.encoders.folding import without_gradients
from chainer_caption.features.encoders.stages import Stage, Staged
from chainer_caption.functions.convolution import convolution_relu, winograd_filters
from chainer_caption.functions.inference import linear_relu
from chainer_caption.functions.matmul import one_blas_thread

# Images that each block takes at a time. Between two layers of the first block an image has 13 MB; in the last one
# it takes many images to give all cores something to do.
_AT_A_TIME = 2, 4, 4, 8, 16


class VGG(Staged):
    """A VGG encoder up to its second hidden layer of 4096 (K. Simonyan and A. Zisserman, "Very Deep Convolutional
    Encoders for Large-Scale Image Recognition", 2014, configurations D and E).

    Blocks of 3 x 3 convolutions, each with its ReLU, and a 2 x 2 max pooling after each block; then two fully
    connected layers with theirs. Dropout, which only training on ImageNet would need, is left out. Parameters are
    named as in Chainer's own `VGG16Layers` and `VGG19Layers` (`conv1_1` ... `fc7`), whose `.npz` files fit, and are
    zero until weights are loaded: random ones, drawn to be overwritten, would take seconds and twice the memory.

    The features are fc7 after its ReLU, not negative.

    Args:
        depths (tuple of int): Convolutions in each block.
        width (int): Channels of the first block; each block doubles them, up to eight times.
        units (int): Units of fc6 and fc7, the dimension D of the features.
        size (int): Side S of the images, a multiple of two to the number of blocks.
    """

    def __init__(self, depths, width=64, units=4096, size=224):
        super().__init__()
        self._blocks = []
        zero = {'initialW': 0, 'initial_bias': 0}
        channels = 3
        with self.init_scope():
            for block, depth in enumerate(depths, 1):
                wider = width * min(2 ** (block - 1), 8)
                names = [f'conv{block}_{i}' for i in range(1, depth + 1)]
                for name in names:
                    setattr(self, name, without_gradients(L.Convolution2D(channels, wider, 3, pad=1, **zero)))
                    channels = wider
                self._blocks.append(names)
            self.fc6 = without_gradients(L.Linear(channels * (size >> len(depths)) ** 2, units, **zero))
            self.fc7 = without_gradients(L.Linear(units, units, **zero))

    def stages(self):
        layers = [(name, name == names[-1]) for names in self._blocks for name in names]
        return [Stage(name, (name,), functools.partial(self._layer, name, pool=pool))
                for name, pool in [*layers, ('fc6', False), ('fc7', False)]]

    def _layer(self, name, x, pool):
        x = F.relu(self[name](x))
        return F.max_pooling_2d(x, 2) if pool else x

    def inference(self):
        """The encoder for inference on the CPU: several times faster than `forward`, and equal to it.

        Returns:
            callable: Takes prepared images, a numpy.ndarray of shape (N, 3, S, S), float32, and returns their
            features, (N, D), float32. Its convolutions have the weights that the link has now; a later change of
            those is not felt.
        """
        blocks = [[(winograd_filters(self[name].W.array), self[name].b.array.copy(), name == names[-1])
                   for name in names] for names in self._blocks]

        hidden = self.fc6, self.fc7                     # and not self, whose convolutions would stay in memory

        def convolve(x, number):                        # by the first so many blocks
            if not number:
                return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
            at_a_time = _AT_A_TIME[number - 1]
            return np.concatenate([through(blocks[number - 1], convolve(x[i:i + at_a_time], number - 1))
                                   for i in range(0, len(x), at_a_time)])

        def through(block, x):
            for filters, b, last in block:
                x = convolution_relu(x, filters, b, pool=last)
            return x

        def compute(x):
            with one_blas_thread():
                x = convolve(x, len(blocks)).transpose(0, 3, 1, 2).reshape(len(x), -1)
                for layer in hidden:
                    x = linear_relu(x, layer.W.array, layer.b.array)
            return x

        return compute


class VGG16(VGG):
    """VGG-16: 13 convolutions; 134 million parameters up to fc7. Arguments as `VGG` has them."""

    def __init__(self, **kwargs):
        super().__init__((2, 2, 3, 3, 3), **kwargs)


class VGG19(VGG):
    """VGG-19: 16 convolutions; 140 million parameters up to fc7. Arguments as `VGG` has them."""

    def __init__(self, **kwargs):
        super().__init__((2, 2, 4, 4, 4), **kwargs)
