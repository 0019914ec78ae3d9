"""Inverted residuals for inference on the CPU (M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear
Bottlenecks", 2018): a 1 x 1 convolution to many channels, a depthwise one, and a 1 x 1 convolution to few channels,
with ReLU6 after the first two. The many channels of an image could take 5 MB, so strips of a few rows pass all three
while they are in the cache. Rows that two strips need are kept for the second."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from chainer_caption.functions.depthwise import BLOCK, add_bias, depthwise, fill_strip, pack_biases, pack_filters

# Numbers of an expanded strip: 512 KiB, and as much before its activation, for a cache of 1 MiB. Half of it is no
# faster there and doubles the calls.
_STRIP = 2 ** 17

_Layer = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class InvertedResidual:
    """The weights of an inverted residual with K inputs, C expanded and M output channels; float32."""

    expand: np.ndarray              # (K, C)
    expand_b: np.ndarray            # (blocks, BLOCK)
    filters: np.ndarray             # depthwise, by `pack_filters`
    depthwise_b: np.ndarray
    ksize: int                      # of the depthwise convolution, 3 or 5
    stride: int                     # likewise, 1 or 2
    project: np.ndarray             # (C, M)
    project_b: np.ndarray           # (M,)
    skip: bool                      # whether the input is added to the output

    @classmethod
    def prepare(cls, expand: _Layer, depthwise: _Layer, project: _Layer, stride: int, skip: bool) -> InvertedResidual:
        """Packs the weights W and biases b of the three layers, as `L.Convolution2D` has them."""
        expand_W, project_W = (np.ascontiguousarray(W.reshape(len(W), -1).T) for W in (expand[0], project[0]))
        return cls(expand_W, pack_biases(expand[1]), *pack_filters(*depthwise), depthwise[0].shape[2], stride,
                   project_W, project[1].copy(), skip)


def same_padding(size: int, ksize: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding, before and after, for an output of ceil(size / stride)."""
    total = max((-(-size // stride) - 1) * stride + ksize - size, 0)
    return total // 2, total - total // 2


class Scratch:
    """Memory that a thread reuses for all layers and images; see buffers.py for the cost of fresh memory."""

    def __init__(self) -> None:
        self._flat: dict[str, np.ndarray] = {}

    def take(self, name: str, *shape: int) -> np.ndarray:
        """An uninitialised float32 array, in the same memory for the same name."""
        size = math.prod(shape)
        if name not in self._flat or self._flat[name].size < size:
            self._flat[name] = np.empty(size, np.float32)
        return self._flat[name][:size].reshape(shape)


def inverted_residual(pixels: Callable[[int, int], np.ndarray], height: int, width: int, weights: InvertedResidual,
                      scratch: Scratch, name: str) -> np.ndarray:
    """Computes one image's inverted residual. Wrap calls in `matmul.one_blas_thread`.

    Args:
        pixels: Returns the rows [first, last) of the input, of height x width, as (rows * width, K), float32.
        scratch, name: The thread's memory, and the name of the result's in it, which must not be that of `pixels`.

    Returns (H', W', M), float32: height and width are divided by the stride and rounded up."""
    ksize, stride, channels = weights.ksize, weights.stride, weights.expand.shape[1]
    above, (left, right) = same_padding(height, ksize, stride)[0], same_padding(width, ksize, stride)
    columns, out_height, out_width = left + width + right, -(-height // stride), -(-width // stride)
    blocks, y = len(weights.filters), scratch.take(name, out_height, out_width, weights.project.shape[1])
    most = min(max(1, (_STRIP // (columns * blocks * BLOCK) - ksize) // stride + 1), out_height)  # rows of a strip out
    strip = scratch.take('strip', blocks, (most - 1) * stride + ksize, columns, BLOCK)
    wide = scratch.take('wide', strip.shape[1] * width, channels)
    convolved = scratch.take('convolved', most * out_width, channels)
    filled = -above                                     # the strip is filled up to this row of the image
    for top in range(0, out_height, most):
        bottom = min(top + most, out_height)
        first, last = top * stride - above, (bottom - 1) * stride + ksize - above
        strip[:, :filled - first] = strip[:, most * stride:most * stride + filled - first]
        if filled < 0:
            strip[:, :-filled] = 0
            filled = 0
        if filled < min(last, height):
            rows = pixels(filled, min(last, height))
            np.dot(rows, weights.expand, out=wide[:len(rows)])
            fill_strip(wide[:len(rows)], weights.expand_b, strip, filled - first, left, width)
        strip[:, max(height - first, 0):last - first] = 0
        filled = last
        count = (bottom - top) * out_width
        depthwise(strip, weights.filters, weights.depthwise_b, stride, convolved[:count], out_width)
        out = y[top:bottom].reshape(count, -1)
        np.dot(convolved[:count], weights.project, out=out)
        add_bias(out, weights.project_b, pixels(top, bottom) if weights.skip else out[:0])
    return y
