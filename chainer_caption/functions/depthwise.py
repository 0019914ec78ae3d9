"""Compiled loops of depthwise convolutions for inference on the CPU, over strips of rows that stay in the cache.
A strip is (blocks of channels, rows, columns, BLOCK), so that the compiler knows the distances between neighbours.
Outputs are rows of pixels again, (rows * width, C), as matrix products take them."""
from __future__ import annotations

from typing import Any

import numpy as np

from chainer_caption.functions.compiled import compiled

BLOCK = 16              #: channels of a block: the float32 numbers of the widest register
_ZERO, _SIX = np.float32(0), np.float32(6)


def pack_filters(W: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depthwise filters, (C, 1, k, k), and biases, (C,), in blocks of channels: (blocks, k * k, BLOCK) and
    (blocks, BLOCK), padded with zeros; all float32."""
    filters = _in_blocks(W.reshape(len(W), -1))
    return np.ascontiguousarray(filters.transpose(0, 2, 1)), pack_biases(b)


def pack_biases(b: np.ndarray) -> np.ndarray:
    """Biases, (C,), likewise: (blocks, BLOCK)."""
    return _in_blocks(b[:, None])[:, :, 0]


def _in_blocks(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, -len(x) % BLOCK), (0, 0))).astype(np.float32).reshape(-1, BLOCK, x.shape[1])


# Indices are unsigned: see convolution.py. Loops over the block and the filter have constant bounds, so that the
# compiler vectorises the former and unrolls the latter.

@compiled
def fill_strip(x, b, strip, first, left, width):
    """Adds biases to rows of pixels, applies ReLU6, and writes them to a strip, with zeros on both sides.

    Args:
        x, b: Pixels, (rows * width, C), contiguous, and biases, (blocks, BLOCK); float32.
        strip: (blocks, R, columns, BLOCK), float32, contiguous.
        first: The strip's row of the first row of pixels.
        left, width: Columns of zeros on the left (the rest are on the right), and pixels of a row."""
    blocks, height, columns, _ = strip.shape
    channels, rows = x.shape[1], x.shape[0] // width
    x_flat, b_flat, strip_flat = x.reshape(-1), b.reshape(-1), strip.reshape(-1)
    for block in range(blocks):
        size = min(BLOCK, channels - block * BLOCK)
        biases = np.uintp(block * BLOCK)
        for row in range(rows):
            start = ((block * height + first + row) * columns) * BLOCK
            strip_flat[start:start + left * BLOCK] = 0
            strip_flat[start + (left + width) * BLOCK:start + columns * BLOCK] = 0
            for column in range(width):
                source = np.uintp((row * width + column) * channels + block * BLOCK)
                target = np.uintp(start + (left + column) * BLOCK)
                if size == BLOCK:
                    for c in range(np.uintp(BLOCK)):
                        strip_flat[target + c] = min(max(x_flat[source + c] + b_flat[biases + c], _ZERO), _SIX)
                else:
                    for c in range(np.uintp(size)):
                        strip_flat[target + c] = min(max(x_flat[source + c] + b_flat[biases + c], _ZERO), _SIX)


def depthwise(strip: np.ndarray, filters: np.ndarray, b: np.ndarray, stride: int, y: np.ndarray, width: int) -> None:
    """Convolves a strip channel by channel, adds biases and applies ReLU6.

    Args:
        strip: (blocks, R, columns, BLOCK), float32, contiguous, from the first output's first input on.
        filters, b, stride: From `pack_filters`, of 3 x 3 or 5 x 5; the stride in both directions.
        y, width: The result, (rows * width, C), float32, contiguous; and the outputs of a row."""
    _DEPTHWISE[filters.shape[1]](strip, filters, b, stride, y, width)


def _depthwise(ksize: int) -> Any:
    @compiled
    def convolve(strip, filters, b, stride, y, width):
        blocks, height, columns, _ = strip.shape
        channels, rows = y.shape[1], y.shape[0] // width
        strip_flat, filters_flat, b_flat, y_flat = strip.reshape(-1), filters.reshape(-1), b.reshape(-1), y.reshape(-1)
        below = np.uintp(columns * BLOCK)
        out = np.zeros(BLOCK, np.float32)
        for block in range(blocks):
            size = min(BLOCK, channels - block * BLOCK)
            weights, biases = np.uintp(block * ksize * ksize * BLOCK), np.uintp(block * BLOCK)
            for row in range(rows):
                for column in range(width):
                    source = np.uintp(((block * height + row * stride) * columns + column * stride) * BLOCK)
                    target = np.uintp((row * width + column) * channels + block * BLOCK)
                    for c in range(np.uintp(BLOCK)):
                        total = b_flat[biases + c]
                        for i in range(ksize):
                            for j in range(ksize):
                                total += strip_flat[source + np.uintp(i) * below + np.uintp(j * BLOCK) + c] * \
                                    filters_flat[weights + np.uintp((i * ksize + j) * BLOCK) + c]
                        out[c] = min(max(total, _ZERO), _SIX)
                    for c in range(np.uintp(size)):
                        y_flat[target + c] = out[c]
    return convolve


_DEPTHWISE = {ksize * ksize: _depthwise(ksize) for ksize in (3, 5)}


@compiled
def add_bias(y, b, x):
    """Adds biases, (C,), and the skip connection `x`, (n, C) or (0, C) for none, to `y`, (n, C); all float32."""
    for n in range(y.shape[0]):
        for c in range(np.uintp(b.shape[0])):
            y[np.uintp(n), c] += b[c]
    y_flat, x_flat = y.reshape(-1), x.reshape(-1)
    for k in range(np.uintp(x_flat.shape[0])):
        y_flat[k] += x_flat[k]


@compiled
def im2col(x, first, above, left, y, width):
    """Unfolds an image for a 3 x 3 convolution of stride 2: the inputs of each output as a row.

    Args:
        x: The image, (C, H, W), float32, contiguous; `above` and `left` are rows and columns of zero padding before it.
        first: The first row of outputs.
        y, width: The result, (rows * width, C * 9), float32, contiguous; and the outputs of a row."""
    channels, height, columns = x.shape
    for place in range(y.shape[0]):
        row, column = (first + place // width) * 2 - above, place % width * 2 - left
        k = 0
        for channel in range(channels):
            for i in range(row, row + 3):
                for j in range(column, column + 3):
                    y[place, k] = x[channel, i, j] if 0 <= i < height and 0 <= j < columns else _ZERO
                    k += 1
