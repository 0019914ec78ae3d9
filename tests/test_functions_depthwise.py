"""The fast inverted residual equals Chainer's convolutions, with strips of any height."""
import chainer
import chainer.functions as F
import numpy as np
import pytest

from chainer_caption.functions import inverted_residual as module
from chainer_caption.functions.depthwise import im2col
from chainer_caption.functions.inverted_residual import InvertedResidual, Scratch, inverted_residual, same_padding
from chainer_caption.functions.matmul import one_blas_thread


def by_chainer(x, expand, depthwise, project, stride, skip):
    """In double precision; `x` is (H, W, K)."""
    def convolve(x, W, b, **kwargs):
        return F.convolution_2d(x, W.astype(np.float64), b.astype(np.float64), **kwargs)

    with chainer.no_backprop_mode():
        x = x.transpose(2, 0, 1)[None].astype(np.float64)
        h = F.clipped_relu(convolve(x, *expand), 6.0)
        padding = [same_padding(size, depthwise[0].shape[2], stride) for size in x.shape[2:]]
        h = F.pad(h, [(0, 0), (0, 0), *padding], 'constant')
        h = F.clipped_relu(convolve(h, *depthwise, stride=stride, groups=h.shape[1]), 6.0)
        h = convolve(h, *project)
        return (h + x if skip else h).array[0].transpose(1, 2, 0)


@pytest.mark.parametrize('strip', [1, 2000, 2 ** 17])
@pytest.mark.parametrize(('height', 'width', 'inner', 'ksize', 'stride'), [
    (1, 1, 16, 3, 1), (2, 3, 5, 5, 2), (14, 9, 40, 5, 1), (15, 16, 33, 3, 2), (16, 15, 48, 5, 2), (23, 8, 96, 3, 1)])
def test_equals_chainers_convolutions(height, width, inner, ksize, stride, strip, monkeypatch):
    monkeypatch.setattr(module, '_STRIP', strip)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((height, width, 6), np.float32)
    shapes = (inner, 6, 1, 1), (inner, 1, ksize, ksize), (6, inner, 1, 1)
    weights = [(rng.standard_normal(shape, np.float32), rng.standard_normal(shape[0], np.float32)) for shape in shapes]
    for skip in (False, True) if stride == 1 else (False,):
        prepared, scratch = InvertedResidual.prepare(*weights, stride, skip), Scratch()
        scratch.take('strip', 2 ** 20)[:] = np.nan      # memory that is not initialised
        with one_blas_thread():
            y = inverted_residual(lambda a, b: x[a:b].reshape(-1, 6), height, width, prepared, scratch, 'y')
        expected = by_chainer(x, *weights, stride, skip)
        assert y.shape == expected.shape and y.dtype == np.float32
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('size', [(8, 8), (7, 9), (1, 4)])
def test_im2col_unfolds_the_inputs_of_a_convolution(size):
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((3, *size), np.float32), rng.standard_normal((4, 3, 3, 3), np.float32)
    (above, below), (left, right) = (same_padding(side, 3, 2) for side in size)
    padded = np.pad(x, ((0, 0), (above, below), (left, right)))
    expected = F.convolution_2d(padded[None], W, stride=2).array[0].transpose(1, 2, 0)
    height, width = expected.shape[:2]
    y = np.empty((height * width, 27), np.float32)
    for first in range(height):
        im2col(x, first, above, left, y[first * width:(first + 1) * width], width)
    np.testing.assert_allclose((y @ W.reshape(4, -1).T).reshape(expected.shape), expected, rtol=0, atol=1e-5)
