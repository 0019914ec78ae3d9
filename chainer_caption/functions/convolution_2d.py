"""Convolutions for training. Chainer unfolds images into matrices (im2col); on the CPU, 1 x 1 convolutions are computed
as matrix products without that, and depthwise ones as compiled loops: the two kinds in encoders for phones."""
from __future__ import annotations

import functools
from typing import Any

import chainer
import chainer.functions as F
import numpy as np

from chainer_caption.functions.compiled import compiled, parallel_for
from chainer_caption.functions.matmul import matmul, one_blas_thread


def convolution_2d(x: Any, W: Any, b: Any = None, stride: tuple[int, int] = (1, 1), pad: tuple[int, int] = (0, 0),
                   groups: int = 1) -> Any:
    """`chainer.functions.convolution_2d`, faster on the CPU for 1 x 1 and depthwise filters.

    Args:
        x, W, b: Images, (N, C, H, W), floats; filters, (K, C / groups, kH, kW); and biases, (K,), or None.
        stride, pad: Each vertical and horizontal; padding is by zeros.
        groups: Groups of channels.

    Returns a chainer.Variable, (N, K, H', W')."""
    if chainer.backend.get_array_module(x) is np and b is not None and tuple(pad) == (0, 0):
        if W.shape[2:] == (1, 1) and groups == 1:
            x = x if tuple(stride) == (1, 1) else x[:, :, ::stride[0], ::stride[1]]
            return _Pointwise().apply((x, W, b))[0]
        if W.shape[:2] == (groups, 1) and stride[0] == stride[1]:
            return _Depthwise(stride[0]).apply((x, W, b))[0]
    return F.convolution_2d(x, W, b, stride, pad, groups=groups)


class _Pointwise(chainer.FunctionNode):
    def forward(self, inputs: tuple) -> tuple:
        self.retain_inputs((0, 1))
        x, W, b = inputs
        pixels = x.reshape(*x.shape[:2], -1)
        y = np.empty((len(x), len(W), pixels.shape[2]), x.dtype)
        with one_blas_thread():
            parallel_for(_multiply, len(x), W[:, :, 0, 0], pixels, y)
        y += b[:, None]
        return y.reshape(len(x), len(W), *x.shape[2:]),

    def backward(self, indexes: tuple, grad_outputs: tuple) -> tuple:
        x, W = (v.array for v in self.get_retained_inputs())
        gy = grad_outputs[0].array.reshape(len(x), len(W), -1)
        gx = None
        with one_blas_thread():
            if 0 in indexes:
                gx = np.empty((*x.shape[:2], gy.shape[2]), x.dtype)
                parallel_for(_multiply, len(x), W[:, :, 0, 0].T, gy, gx)
                gx = gx.reshape(x.shape)
            # One product over the positions of all images in place of a sum of products.
            rows, columns = (a.transpose(1, 0, 2).reshape(a.shape[1], -1) for a in (gy, x.reshape(*x.shape[:2], -1)))
            gW = matmul(rows, columns.T)
        return _variables(indexes, gx, gW.reshape(W.shape), gy.sum(axis=(0, 2)))


def _variables(indexes: tuple, *gradients: np.ndarray | None) -> tuple:
    return tuple(chainer.as_variable(gradients[i]) for i in indexes)


def _multiply(W: np.ndarray, pixels: np.ndarray, y: np.ndarray, start: int, stop: int) -> None:
    for i in range(start, stop):
        np.dot(W, pixels[i], out=y[i])


class _Depthwise(chainer.FunctionNode):
    def __init__(self, stride: int) -> None:
        self._stride = stride

    def forward(self, inputs: tuple) -> tuple:
        self.retain_inputs((0, 1))
        x, W, b = inputs
        sides = [(side - k) // self._stride + 1 for side, k in zip(x.shape[2:], W.shape[2:], strict=True)]
        y = np.empty((*x.shape[:2], *sides), x.dtype)
        _convolve(x, W[:, 0], b, self._stride, y)
        return y,

    def backward(self, indexes: tuple, grad_outputs: tuple) -> tuple:
        x, W = (v.array for v in self.get_retained_inputs())
        gy = np.ascontiguousarray(grad_outputs[0].array)
        # One per plane, so that the sum does not depend on the number of threads.
        parts = np.empty((*x.shape[:2], *W.shape[2:]), W.dtype)
        parallel_for(_loops(W.shape[3], self._stride)[1], len(_planes(x)), _planes(x), _planes(gy), _planes(parts))
        gx = self._input_gradient(gy, W, x) if 0 in indexes else None
        return _variables(indexes, gx, parts.sum(axis=0)[:, None], gy.sum(axis=(0, 2, 3)))

    def _input_gradient(self, gy: np.ndarray, W: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The transposed convolution: one of `gy`, dilated by the stride, with the filters turned."""
        (high, wide), (height, width) = W.shape[2:], x.shape[2:]
        dilated = np.zeros((*x.shape[:2], height + high - 1, width + wide - 1), x.dtype)
        down, across = (self._stride * size for size in gy.shape[2:])
        dilated[:, :, high - 1:high - 1 + down:self._stride, wide - 1:wide - 1 + across:self._stride] = gy
        gx = np.empty_like(x, order='C')
        _convolve(dilated, W[:, 0, ::-1, ::-1], np.zeros(len(W), x.dtype), 1, gx)
        return gx


def _convolve(x: np.ndarray, filters: np.ndarray, b: np.ndarray, stride: int, y: np.ndarray) -> None:
    planes = _planes(y)
    parallel_for(_loops(filters.shape[2], stride)[0], len(planes), _planes(x), np.ascontiguousarray(filters), b, planes)


def _planes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])


@functools.cache
def _loops(ksize: int, stride: int) -> tuple:
    # The width and the stride are constants, so that the compiler unrolls and vectorises; for unsigned indices see
    # convolution.py.
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
