"""Inverted residuals for inference on the CPU: expansion, depthwise convolution and projection in one go.

The blocks of M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018: a 1 x 1 convolution
that makes many channels of few, a depthwise one, and a 1 x 1 convolution that makes few of them again; ReLU6 after the
first two. What is wide lives only between them. So it is never made as a whole, which for one image could be 5 MB:
strips of a few rows go through all three while they are in the cache. Rows that two strips see are kept for the second.
"""
import dataclasses
import math

import numpy as np

from chainer_caption.functions.depthwise import BLOCK, add, blocked, depthwise, spread

# Numbers of an expanded strip: 512 KiB, and as much before its activation, for a cache of 1 MiB. Half of it gains
# nothing there and doubles the calls.
_STRIP = 2 ** 17


@dataclasses.dataclass(frozen=True)
class InvertedResidual:
    """An inverted residual's weights, prepared; see `prepare`.

    Attributes:
        expand (numpy.ndarray): (K, C), float32, of the expansion; K numbers of the input make C channels.
        expand_b (numpy.ndarray): Its biases, in blocks.
        filters (numpy.ndarray): The depthwise convolution's, in blocks.
        depthwise_b (numpy.ndarray): Its biases, in blocks.
        ksize (int): Its side, 3 or 5.
        stride (int): Its stride, 1 or 2.
        project (numpy.ndarray): (C, M), float32, of the projection.
        project_b (numpy.ndarray): Its biases, (M,).
        skip (bool): Whether the input is added to the output.
    """

    expand: np.ndarray
    expand_b: np.ndarray
    filters: np.ndarray
    depthwise_b: np.ndarray
    ksize: int
    stride: int
    project: np.ndarray
    project_b: np.ndarray
    skip: bool

    @classmethod
    def prepare(cls, expand, depthwise, project, stride, skip):
        """Prepares weights.

        Args:
            expand, depthwise, project (tuple of numpy.ndarray): W and b of each, as `L.Convolution2D` has them.
            stride (int): Of the depthwise convolution.
            skip (bool): Whether the input is added to the output.
        """
        filters, depthwise_b = blocked(*depthwise)
        (expand_W, expand_b), (project_W, project_b) = expand, project
        biases = np.zeros(depthwise_b.shape, np.float32)
        biases.reshape(-1)[:len(expand_b)] = expand_b
        return cls(_matrix(expand_W), biases, filters, depthwise_b, depthwise[0].shape[2], stride, _matrix(project_W),
                   project_b.copy(), skip)


def _matrix(W):
    return np.ascontiguousarray(W.reshape(len(W), -1).T)


def same_padding(size, ksize, stride):
    """TensorFlow's padding that makes an output of ceil(size / stride): how much before and how much after."""
    total = max((-(-size // stride) - 1) * stride + ksize - size, 0)
    return total // 2, total - total // 2


class Scratch:
    """Memory that a thread uses again for all layers and images; see buffers.py for what fresh memory costs."""

    def __init__(self):
        self._flat = {}

    def take(self, name, *shape):
        """An uninitialised array of float32, the same memory whenever it has the same name."""
        size = math.prod(shape)
        if name not in self._flat or self._flat[name].size < size:
            self._flat[name] = np.empty(size, np.float32)
        return self._flat[name][:size].reshape(shape)


def inverted_residual(pixels, height, width, weights, scratch, name):
    """Computes one image's inverted residual. Wrap calls in `matmul.one_blas_thread`.

    Args:
        pixels (callable): Takes a range of rows, as two ints, and gives them as a matrix: (rows * width, K), float32.
        height (int): Rows of the image.
        width (int): Its columns.
        weights (InvertedResidual): The weights.
        scratch (Scratch): The thread's memory.
        name (str): Of the memory for the result, which is not that of `pixels`.

    Returns:
        numpy.ndarray: (H', W', M), float32; H' and W' are those divided by the stride, rounded up.
    """
    ksize, stride, channels = weights.ksize, weights.stride, weights.expand.shape[1]
    above, (left, right) = same_padding(height, ksize, stride)[0], same_padding(width, ksize, stride)
    columns, out_height, out_width = left + width + right, -(-height // stride), -(-width // stride)
    blocks = len(weights.filters)
    y = scratch.take(name, out_height, out_width, weights.project.shape[1])
    most = max(1, (_STRIP // (columns * blocks * BLOCK) - ksize) // stride + 1)       # rows of outputs in a strip
    most = min(most, out_height)
    strip = scratch.take('strip', blocks, (most - 1) * stride + ksize, columns, BLOCK)
    wide = scratch.take('wide', strip.shape[1] * width, channels)
    convolved = scratch.take('convolved', most * out_width, channels)
    there = -above                                      # the row of the image up to which the strip is filled
    for top in range(0, out_height, most):
        bottom = min(top + most, out_height)
        first, last = top * stride - above, (bottom - 1) * stride + ksize - above
        kept = there - first
        strip[:, :kept] = strip[:, most * stride:most * stride + kept]
        if there < 0:
            strip[:, :-there] = 0
            there = 0
        if there < min(last, height):
            rows = pixels(there, min(last, height))
            np.dot(rows, weights.expand, out=wide[:len(rows)])
            spread(wide[:len(rows)], weights.expand_b, strip, there - first, left, width)
        strip[:, max(height - first, 0):last - first] = 0
        there = last
        count = (bottom - top) * out_width
        depthwise(strip, weights.filters, weights.depthwise_b, stride, convolved[:count], out_width)
        out = y[top:bottom].reshape(count, -1)
        np.dot(convolved[:count], weights.project, out=out)
        add(out, weights.project_b, pixels(top, bottom) if weights.skip else out[:0])
    return y
