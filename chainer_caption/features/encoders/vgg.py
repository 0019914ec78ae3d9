"""VGG-16 and VGG-19 up to fc7, the encoders behind most published caption features."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chainer.functions as F
import chainer.links as L
import numpy as np

from chainer_caption.features.encoders.stages import Stage, StagedEncoder, without_gradients
from chainer_caption.functions.convolution import convolution_relu, linear_relu, winograd_filters
from chainer_caption.functions.matmul import one_blas_thread

# Micro-batch of each block: an image has 13 MB between layers of the first; the last needs many to use all cores.
_MICRO_BATCHES = 2, 4, 4, 8, 16


class VGG(StagedEncoder):
    """A VGG encoder up to its second hidden layer of 4096 (K. Simonyan and A. Zisserman, "Very Deep Convolutional
    Encoders for Large-Scale Image Recognition", 2014, configurations D and E).

    Blocks of 3 x 3 convolutions with ReLU, a 2 x 2 max pooling after each, and two fully connected layers with ReLU,
    without dropout. Parameters are named as in Chainer's `VGG16Layers` and `VGG19Layers` (`conv1_1` ... `fc7`), whose
    `.npz` files fit. They are zero until weights are loaded. The features are fc7 after its ReLU, not negative.

    Args:
        depths, width: Convolutions in each block; channels of the first, doubled by each block up to eight times.
        units, size: Units of fc6 and fc7, the dimension D; side S of the images, a multiple of 2 ** (number of blocks).
    """

    def __init__(self, depths: tuple[int, ...], width: int = 64, units: int = 4096, size: int = 224) -> None:
        super().__init__()
        self._blocks = [[f'conv{block}_{i}' for i in range(1, depth + 1)] for block, depth in enumerate(depths, 1)]
        zero: dict[str, Any] = {'initialW': 0, 'initial_bias': 0}
        channels = 3
        with self.init_scope():
            for block, names in enumerate(self._blocks):
                for name in names:
                    wider = width * min(2 ** block, 8)
                    setattr(self, name, without_gradients(L.Convolution2D(channels, wider, 3, pad=1, **zero)))
                    channels = wider
            self.fc6 = without_gradients(L.Linear(channels * (size >> len(depths)) ** 2, units, **zero))
            self.fc7 = without_gradients(L.Linear(units, units, **zero))

    def stages(self) -> list[Stage]:
        layers = [(name, name == names[-1]) for names in self._blocks for name in names]
        return [Stage(name, (name,), functools.partial(self._layer, name, pool=pool))
                for name, pool in [*layers, ('fc6', False), ('fc7', False)]]

    def _layer(self, name: str, x: Any, pool: bool) -> Any:
        x = F.relu(self[name](x))
        return F.max_pooling_2d(x, 2) if pool else x

    def inference(self) -> Callable[[np.ndarray], np.ndarray]:
        """The encoder for inference on the CPU, several times faster than `forward`: a function of prepared images,
        (N, 3, S, S) float32, that returns features, (N, D) float32. It keeps the convolutions' present weights."""
        blocks = [[(winograd_filters(self[name].W.array), self[name].b.array.copy(), name == names[-1])
                   for name in names] for names in self._blocks]
        hidden = self.fc6, self.fc7                     # and not self, whose convolutions would stay in memory

        def convolve(x: np.ndarray, number: int) -> np.ndarray:             # by the first `number` blocks
            if not number:
                return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
            made, size = [], _MICRO_BATCHES[number - 1]
            for i in range(0, len(x), size):
                part = convolve(x[i:i + size], number - 1)
                for filters, b, last in blocks[number - 1]:
                    part = convolution_relu(part, filters, b, pool=last)
                made.append(part)
            return np.concatenate(made)

        def compute(x: np.ndarray) -> np.ndarray:
            with one_blas_thread():
                x = convolve(x, len(blocks)).transpose(0, 3, 1, 2).reshape(len(x), -1)
                for layer in hidden:
                    x = linear_relu(x, layer.W.array, layer.b.array)
            return x

        return compute


class VGG16(VGG):
    """VGG-16: 13 convolutions; 134 million parameters up to fc7. Keyword arguments as of `VGG`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((2, 2, 3, 3, 3), **kwargs)


class VGG19(VGG):
    """VGG-19: 16 convolutions; 140 million parameters up to fc7. Keyword arguments as of `VGG`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((2, 2, 4, 4, 4), **kwargs)
