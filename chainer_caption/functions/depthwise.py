"""Depthwise convolutions for inference on the CPU: the compiled loops, over strips of rows that stay in the cache.

A strip is cut into blocks of channels, (blocks, rows, columns, BLOCK), so that the neighbours of a number are at
distances the compiler knows. Outputs are whole pixels again, as matrix products want them.
"""
import numpy as np

from chainer_caption.functions.compiled import compiled

#: Channels of a block: what fits into the widest registers.
BLOCK = 16

_ZERO, _SIX = np.float32(0), np.float32(6)


def blocked(W, b):
    """The filters and biases of a depthwise convolution, cut into blocks of channels.

    Args:
        W (numpy.ndarray): Filters as `L.Convolution2D` has them with as many groups as channels, (C, 1, k, k), float32.
        b (numpy.ndarray): Biases, (C,), float32.

    Returns:
        tuple of numpy.ndarray: (blocks, k * k, BLOCK) and (blocks, BLOCK), float32; what fills the last block is zero.
    """
    channels, _, ksize, _ = W.shape
    filters = np.zeros((-(-channels // BLOCK) * BLOCK, ksize * ksize), np.float32)
    filters[:channels] = W.reshape(channels, -1)
    biases = np.zeros((len(filters) // BLOCK, BLOCK), np.float32)
    biases.reshape(-1)[:channels] = b
    return np.ascontiguousarray(filters.reshape(-1, BLOCK, ksize * ksize).transpose(0, 2, 1)), biases


# Indices are unsigned for the reason given in convolution.py. Loops over the block and over the filter have constant
# bounds, so that the latter are unrolled and the former vectorised.

@compiled
def spread(x, b, strip, first, left, width):
    """Adds the biases to rows of pixels, applies ReLU6, and puts them into a strip, with zeros beside them.

    Args:
        x (numpy.ndarray): (rows * width, C), float32, contiguous.
        b (numpy.ndarray): Biases, (blocks, BLOCK), float32.
        strip (numpy.ndarray): (blocks, R, columns, BLOCK), float32, contiguous.
        first (int): Row of the strip where they begin.
        left (int): Columns of zeros on the left; the others are on the right.
        width (int): Pixels of a row.
    """
    blocks, height, columns, _ = strip.shape
    channels, rows = x.shape[1], x.shape[0] // width
    x_flat, b_flat, strip_flat = x.reshape(-1), b.reshape(-1), strip.reshape(-1)
    for block in range(blocks):
        size = min(BLOCK, channels - block * BLOCK)
        biases = np.uintp(block * BLOCK)
        for row in range(rows):
            start = ((block * height + first + row) * columns) * BLOCK
            for k in range(left * BLOCK):
                strip_flat[np.uintp(start + k)] = 0
            for k in range((left + width) * BLOCK, columns * BLOCK):
                strip_flat[np.uintp(start + k)] = 0
            for column in range(width):
                source = np.uintp((row * width + column) * channels + block * BLOCK)
                target = np.uintp(start + (left + column) * BLOCK)
                if size == BLOCK:
                    for c in range(np.uintp(BLOCK)):
                        total = x_flat[source + c] + b_flat[biases + c]
                        strip_flat[target + c] = min(max(total, _ZERO), _SIX)
                else:
                    for c in range(np.uintp(size)):
                        total = x_flat[source + c] + b_flat[biases + c]
                        strip_flat[target + c] = min(max(total, _ZERO), _SIX)


def depthwise(strip, filters, b, stride, y, width):
    """Convolves a strip, channel by channel, adds the biases and applies ReLU6.

    Args:
        strip (numpy.ndarray): (blocks, R, columns, BLOCK), float32, contiguous; its first row and column are those that
            the first output sees.
        filters (numpy.ndarray): As `blocked` gives them, of 3 x 3 or 5 x 5.
        b (numpy.ndarray): Biases, likewise.
        stride (int): From one output to the next, in both directions.
        y (numpy.ndarray): Where to, (rows * width, C), float32, contiguous.
        width (int): Outputs of a row.
    """
    _DEPTHWISE[filters.shape[1]](strip, filters, b, stride, y, width)


def _depthwise(ksize):
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
def add(y, b, x):
    """Adds biases, (C,), to pixels, (n, C), and the pixels `x`, (n, C) or (0, C) for none; all float32, contiguous."""
    for n in range(y.shape[0]):
        for c in range(np.uintp(b.shape[0])):
            y[np.uintp(n), c] += b[c]
    y_flat, x_flat = y.reshape(-1), x.reshape(-1)
    for k in range(np.uintp(x_flat.shape[0])):
        y_flat[k] += x_flat[k]


@compiled
def patches(x, first, above, left, y, width):
    """What the outputs of a 3 x 3 convolution of stride 2 see of an image, a row of numbers for each.

    Args:
        x (numpy.ndarray): The image, (C, H, W), float32, contiguous.
        first (int): The first row of outputs.
        above, left (int): Rows and columns of zeros around the image, of which output (0, 0) sees the first.
        y (numpy.ndarray): Where to, (rows * width, C * 9), float32, contiguous.
        width (int): Outputs of a row.
    """
    channels, height, columns = x.shape
    for place in range(y.shape[0]):
        row, column = (first + place // width) * 2 - above, place % width * 2 - left
        k = 0
        for channel in range(channels):
            for i in range(row, row + 3):
                for j in range(column, column + 3):
                    inside = 0 <= i < height and 0 <= j < columns
                    y[place, k] = x[channel, i, j] if inside else _ZERO
                    k += 1
