"""Layers of VGG for inference on the CPU: 3 x 3 convolution, bias, ReLU and 2 x 2 max pooling; linear and ReLU.

The convolution is Winograd's minimal filtering, F(4 x 4, 3 x 3) of A. Lavin and S. Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016: Y = A^T [(G g G^T) * (B^T d B)] A for filters g, tiles d of 6 x 6 inputs, and
tiles Y of 4 x 4 outputs. The sum over the channels is a matrix product over all tiles, for each of 36 points. Groups of
tiles, whose transforms stay in the cache, are computed by one thread each. In float32 the result differs from a direct
convolution by some 1e-6 of the largest output."""
from __future__ import annotations

import numpy as np

from chainer_caption.functions.compiled import compiled, inlined, parallel_for
from chainer_caption.functions.matmul import matmul

_TILES, _BLOCK = 64, 32                 # tiles of a group; channels that are transformed together
_NEXT, _BELOW = np.uintp(_BLOCK), np.uintp(6 * _BLOCK)      # from a point of a tile to its neighbours
_2, _4, _5, _8 = map(np.float32, (2, 4, 5, 8))
_TWO, _THREE, _FOUR, _FIVE = map(np.uintp, (2, 3, 4, 5))
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24


def winograd_filters(W: np.ndarray) -> np.ndarray:
    """Transforms the filters of a 3 x 3 convolution, (K, C, 3, 3) float32: G g G^T, (36, C, K) float32."""
    filters, channels = W.shape[:2]
    points = np.ascontiguousarray(W.transpose(2, 3, 1, 0), np.float32).reshape(9, channels * filters)
    return (np.kron(_G, _G).astype(np.float32) @ points).reshape(36, channels, filters)


def convolution_relu(x: np.ndarray, filters: np.ndarray, b: np.ndarray, pool: bool = False) -> np.ndarray:
    """Convolves images (3 x 3, stride 1, padded by one with zeros), adds the bias and applies ReLU.

    Equals `F.relu(F.convolution_2d(x, W, b, pad=1))`, and `F.max_pooling_2d(…, 2)` of it with `pool`, but for the order
    of the dimensions, and does not depend on the number of threads. Wrap calls in `matmul.one_blas_thread`.

    Args:
        x: Images, (N, H, W, C), float32, contiguous.
        filters, b: `winograd_filters(W)`, (36, C, K), and biases, (K,), float32.
        pool: Take the maximum of each 2 x 2 outputs; H and W must be even.

    Returns (N, H, W, K), or (N, H / 2, W / 2, K) with `pool`; float32."""
    images, height, width, channels = x.shape
    if pool and (height % 2 or width % 2):
        raise ValueError(f'cannot pool {height} x {width} outputs by two')
    shape = (images, height // 2, width // 2) if pool else (images, height, width)
    y = np.empty((*shape, filters.shape[2]), np.float32)
    tiles = images * -(-height // 4) * -(-width // 4)

    def compute(start: int, stop: int) -> None:
        before = np.empty((36, _TILES, channels), np.float32)
        after = np.empty((36, _TILES, filters.shape[2]), np.float32)
        for first in range(start * _TILES, min(stop * _TILES, tiles), _TILES):
            count = min(_TILES, tiles - first)
            _transform_inputs(x, before, first, count)
            np.matmul(before[:, :count], filters, out=after[:, :count])
            _transform_outputs(after, b, y, pool, first, count)

    parallel_for(compute, -(-tiles // _TILES))
    return y


def linear_relu(x: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max(x W^T + b, 0), (N, K), of x (N, C), W (K, C) and b (K,), all float32. Wrap calls in `one_blas_thread`."""
    y = matmul(x, W.T)
    return np.maximum(np.add(y, b, out=y), 0, out=y)


# The transforms take a tile's channels in blocks, through two scratch arrays in which a point of the tile is a row of
# _BLOCK numbers: with constant offsets the compiler vectorises. Indices are unsigned, because Numba's handling of
# negative ones would prevent that.

@compiled
def _transform_inputs(x, before, first, count):
    _, height, width, channels = x.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    x_flat, before_flat = x.reshape(-1), before.reshape(-1)
    tile, half = np.zeros(36 * _BLOCK, np.float32), np.zeros(36 * _BLOCK, np.float32)
    for i in range(count):
        image, place = divmod(first + i, down * across)
        top, left = place // across * 4 - 1, place % across * 4 - 1
        for channel in range(0, channels, _BLOCK):
            size = min(_BLOCK, channels - channel)
            tile[:] = 0
            for point in range(36):
                row, column = top + point // 6, left + point % 6
                if 0 <= row < height and 0 <= column < width:
                    source = ((image * height + row) * width + column) * channels + channel
                    _copy(x_flat, source, tile, point * _BLOCK, size)
            for column in range(6):
                _inputs_pass(tile, half, column * _BLOCK, _BELOW)
            for row in range(6):
                _inputs_pass(half, tile, row * 6 * _BLOCK, _NEXT)
            for point in range(36):
                target = (point * before.shape[1] + i) * channels + channel
                _copy(tile, point * _BLOCK, before_flat, target, size)


@compiled
def _transform_outputs(after, b, y, pool, first, count):
    _, height, width, channels = y.shape
    side = 2 if pool else 4                             # of a tile, in outputs
    down, across = (height + side - 1) // side, (width + side - 1) // side
    after_flat, y_flat = after.reshape(-1), y.reshape(-1)
    tile, half = np.zeros(36 * _BLOCK, np.float32), np.zeros(36 * _BLOCK, np.float32)
    for i in range(count):
        image, place = divmod(first + i, down * across)
        top, left = place // across * side, place % across * side
        for channel in range(0, channels, _BLOCK):
            size = min(_BLOCK, channels - channel)
            for point in range(36):
                source = (point * after.shape[1] + i) * channels + channel
                _copy(after_flat, source, tile, point * _BLOCK, size)
            for column in range(6):
                _outputs_pass(tile, half, column * _BLOCK, _BELOW)
            for row in range(4):
                _outputs_pass(half, tile, row * 6 * _BLOCK, _NEXT)
            if pool:
                for point in range(4):
                    corner, target = point // 2 * 12 + point % 2 * 2, point // 2 * 6 + point % 2
                    for c in range(_BLOCK):
                        k = np.uintp(corner * _BLOCK + c)
                        above, below = max(tile[k], tile[k + _NEXT]), max(tile[k + _BELOW], tile[k + _BELOW + _NEXT])
                        half[np.uintp(target * _BLOCK + c)] = max(above, below)
                tile, half = half, tile
            for row in range(min(side, height - top)):
                for column in range(min(side, width - left)):
                    source = (row * 6 + column) * _BLOCK
                    target = ((image * height + top + row) * width + left + column) * channels + channel
                    for c in range(size):
                        total = tile[np.uintp(source + c)] + b[np.uintp(channel + c)]
                        y_flat[np.uintp(target + c)] = max(total, np.float32(0))


@inlined
def _copy(source, source_at, target, target_at, size):
    for c in range(size):
        target[np.uintp(target_at + c)] = source[np.uintp(source_at + c)]


@inlined
def _six(start, step):
    return start, start + step, start + _TWO * step, start + _THREE * step, start + _FOUR * step, start + _FIVE * step


@inlined
def _inputs_pass(source, target, start, step):
    # B^T times each of a block's columns of six points
    for c in range(_BLOCK):
        k0, k1, k2, k3, k4, k5 = _six(np.uintp(start + c), step)
        d0, d1, d2, d3, d4, d5 = source[k0], source[k1], source[k2], source[k3], source[k4], source[k5]
        target[k0] = _4 * d0 - _5 * d2 + d4
        target[k1] = d3 + d4 - _4 * (d1 + d2)
        target[k2] = d4 - d3 + _4 * (d1 - d2)
        target[k3] = d4 - d2 + _2 * (d3 - d1)
        target[k4] = d4 - d2 + _2 * (d1 - d3)
        target[k5] = _4 * d1 - _5 * d3 + d5


@inlined
def _outputs_pass(source, target, start, step):
    # A^T, likewise; of six points four remain
    for c in range(_BLOCK):
        k0, k1, k2, k3, k4, k5 = _six(np.uintp(start + c), step)
        m0, m1, m2, m3, m4, m5 = source[k0], source[k1], source[k2], source[k3], source[k4], source[k5]
        target[k0] = m0 + (m1 + m2) + (m3 + m4)
        target[k1] = (m1 - m2) + _2 * (m3 - m4)
        target[k2] = (m1 + m2) + _4 * (m3 + m4)
        target[k3] = (m1 - m2) + _8 * (m3 - m4) + m5
