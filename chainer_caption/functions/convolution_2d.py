"""Convolutions for training: Chainer's, but for the two kinds that fill networks for telephones, which are done on the
CPU without unfolding the images: 1 x 1 convolutions are matrix products as they stand, and depthwise ones loops.
"""
import functools

import chainer
import chainer.functions as F
import numpy as np

from chainer_caption.functions.compiled import compiled, parallel_for
from chainer_caption.functions.matmul import matmul, one_blas_thread


def convolution_2d(x, W, b=None, stride=(1, 1), pad=(0, 0), groups=1):
    """`chainer.functions.convolution_2d`, faster on the CPU where the filters are 1 x 1 or depthwise.

    Args:
        x (chainer.Variable or array): Images, (N, C, H, W), floats.
        W (chainer.Variable or array): Filters, (K, C / groups, kH, kW).
        b (chainer.Variable, array or None): Biases, (K,).
        stride (tuple of int): Down and across.
        pad (tuple of int): Zeros around the images, likewise.
        groups (int): Into how many the channels are cut.

    Returns:
        chainer.Variable: (N, K, H', W').
    """
    if chainer.backend.get_array_module(x) is np and b is not None and tuple(pad) == (0, 0):
        if W.shape[2:] == (1, 1) and groups == 1:
            if tuple(stride) != (1, 1):
                x = x[:, :, ::stride[0], ::stride[1]]
            return _Pointwise().apply((x, W, b))[0]
        if W.shape[:2] == (groups, 1) and stride[0] == stride[1]:
            return _Depthwise(stride[0]).apply((x, W, b))[0]
    return F.convolution_2d(x, W, b, stride, pad, groups=groups)


class _Pointwise(chainer.FunctionNode):

    def forward(self, inputs):
        self.retain_inputs((0, 1))
        x, W, b = inputs
        pixels = x.reshape(*x.shape[:2], -1)
        y = np.empty((len(x), len(W), pixels.shape[2]), x.dtype)
        with one_blas_thread():
            parallel_for(_multiply, len(x), W[:, :, 0, 0], pixels, y)
        y += b[:, None]
        return y.reshape(len(x), len(W), *x.shape[2:]),

    def backward(self, indexes, grad_outputs):
        x, W = (v.array for v in self.get_retained_inputs())
        gy = grad_outputs[0].array.reshape(len(x), len(W), -1)
        gx = None
        with one_blas_thread():
            if 0 in indexes:
                gx = np.empty((*x.shape[:2], gy.shape[2]), x.dtype)
                parallel_for(_multiply, len(x), W[:, :, 0, 0].T, gy, gx)
                gx = gx.reshape(x.shape)
            # The places of all images in a row: one product in place of a sum of many.
            gW = matmul(_in_a_row(gy), _in_a_row(x.reshape(*x.shape[:2], -1)).T)
        gradients = gx, gW.reshape(W.shape), gy.sum(axis=(0, 2))
        return tuple(chainer.as_variable(gradients[i]) for i in indexes)


def _multiply(W, pixels, y, start, stop):
    for i in range(start, stop):
        np.dot(W, pixels[i], out=y[i])


def _in_a_row(pixels):
    return pixels.transpose(1, 0, 2).reshape(pixels.shape[1], -1)


class _Depthwise(chainer.FunctionNode):

    def __init__(self, stride):
        self._stride = stride

    def forward(self, inputs):
        self.retain_inputs((0, 1))
        x, W, b = inputs
        sides = [(side - k) // self._stride + 1 for side, k in zip(x.shape[2:], W.shape[2:], strict=True)]
        y = np.empty((*x.shape[:2], *sides), x.dtype)
        _convolve(x, W[:, 0], b, self._stride, y)
        return y,

    def backward(self, indexes, grad_outputs):
        x, W = (v.array for v in self.get_retained_inputs())
        gy = np.ascontiguousarray(grad_outputs[0].array)
        # A part for each plane, so that the sum is the same for any number of threads.
        parts = np.empty((*x.shape[:2], *W.shape[2:]), W.dtype)
        parallel_for(_loops(W.shape[3], self._stride)[1], len(_planes(x)), _planes(x), _planes(gy), _planes(parts))
        gradients = self._back(gy, W, x) if 0 in indexes else None, parts.sum(axis=0)[:, None], gy.sum(axis=(0, 2, 3))
        return tuple(chainer.as_variable(gradients[i]) for i in indexes)

    def _back(self, gy, W, x):
        """The gradient of the images: a convolution of that of the outputs, spread out, with the filters turned."""
        (high, wide), (height, width) = W.shape[2:], x.shape[2:]
        spread = np.zeros((*x.shape[:2], height + high - 1, width + wide - 1), x.dtype)
        down, across = (self._stride * size for size in gy.shape[2:])
        spread[:, :, high - 1:high - 1 + down:self._stride, wide - 1:wide - 1 + across:self._stride] = gy
        gx = np.empty_like(x, order='C')
        _convolve(spread, W[:, 0, ::-1, ::-1], np.zeros(len(W), x.dtype), 1, gx)
        return gx


def _convolve(x, filters, b, stride, y):
    parallel_for(_loops(filters.shape[2], stride)[0], len(_planes(y)), _planes(x), np.ascontiguousarray(filters), b,
               _planes(y))


def _planes(x):
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])


@functools.cache
def _loops(ksize, stride):
    """The loops for filters of a width and a stride: as constants they let the compiler unroll and vectorise. Indices
    are unsigned for the reason given in convolution.py."""
    step = np.uintp(stride)

    @compiled
    def convolve(planes, filters, b, y, start, stop):
        for plane in range(start, stop):
            channel = plane % len(filters)
            for row in range(y.shape[1]):
                out = y[plane, row]
                out[:] = b[channel]
                for i in range(filters.shape[1]):
                    line, weights = planes[plane, row * stride + i], filters[channel, i]
                    for column in range(np.uintp(len(out))):
                        total = out[column]
                        for j in range(ksize):
                            total += weights[j] * line[column * step + np.uintp(j)]
                        out[column] = total

    @compiled
    def correlate(planes, gy, gW, start, stop):
        sums = np.empty((ksize, gy.shape[2]), gy.dtype)
        for plane in range(start, stop):
            for i in range(gW.shape[1]):
                sums[:] = 0
                for row in range(gy.shape[1]):
                    line, back = planes[plane, row * stride + i], gy[plane, row]
                    for column in range(np.uintp(len(back))):
                        for j in range(ksize):
                            sums[np.uintp(j), column] += back[column] * line[column * step + np.uintp(j)]
                for j in range(ksize):
                    gW[plane, i, j] = sums[j].sum()

    return convolve, correlate
