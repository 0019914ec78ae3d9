"""The fast convolutions equal Chainer's."""
import chainer
import chainer.functions as F
import numpy as np
import pytest
import threadpoolctl

from chainer_caption.functions import convolution
from chainer_caption.functions.convolution import convolution_relu, linear_relu, winograd_filters
from chainer_caption.functions.convolution_2d import convolution_2d
from chainer_caption.functions.matmul import one_blas_thread


def case(shape, filters, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, np.float32)
    W = rng.standard_normal((filters, shape[3], 3, 3), np.float32)
    return x, W, rng.standard_normal(filters, np.float32)


def by_chainer(x, W, b, pool):
    """In double precision, so that the error is that of one side."""
    with chainer.no_backprop_mode():
        y = F.relu(F.convolution_2d(x.transpose(0, 3, 1, 2).astype(np.float64), W.astype(np.float64),
                                    b.astype(np.float64), pad=1))
        return (F.max_pooling_2d(y, 2) if pool else y).array.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(('shape', 'filters'), [
    ((1, 1, 1, 1), 1), ((1, 4, 4, 3), 5), ((3, 5, 9, 2), 33), ((2, 14, 14, 64), 32), ((1, 6, 2, 31), 7),
    ((2, 56, 56, 3), 16), ((1, 28, 28, 128), 40)])
def test_equals_chainers_convolution(shape, filters):
    x, W, b = case(shape, filters)
    for pool in (False, True):
        if pool and (shape[1] % 2 or shape[2] % 2):
            with pytest.raises(ValueError, match='cannot pool'):
                convolution_relu(x, winograd_filters(W), b, pool)
            continue
        y, expected = convolution_relu(x, winograd_filters(W), b, pool), by_chainer(x, W, b, pool)
        assert y.dtype == np.float32
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


def test_does_not_depend_on_the_number_of_threads(monkeypatch):
    x, W, b = case((2, 46, 50, 8), 12)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(convolution, 'parallel_for', lambda loop, rows, n=threads: [
            loop(rows * i // n, rows * (i + 1) // n) for i in range(n)])
        results.append(convolution_relu(x, winograd_filters(W), b))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize('units', [3, 512, 1100])
def test_linear_equals_chainers(units):
    rng = np.random.default_rng(0)
    x, W, b = (rng.standard_normal(shape, np.float32) for shape in ((5, 70), (units, 70), units))
    np.testing.assert_allclose(linear_relu(x, W, b), F.relu(F.linear(x, W, b)).array, rtol=1e-5, atol=1e-5)


def test_blas_threads_are_restored():
    def threads():
        return [pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['user_api'] == 'blas']

    before = threads()
    with pytest.raises(KeyError), one_blas_thread():
        assert set(threads()) == {1}
        raise KeyError
    assert threads() == before


# ---- For training

@pytest.mark.parametrize(('shape', 'filters', 'stride', 'groups'), [
    ((3, 5, 6, 7), (4, 5, 1, 1), (1, 1), 1), ((2, 5, 6, 7), (4, 5, 1, 1), (2, 2), 1),
    ((3, 5, 9, 8), (5, 1, 3, 3), (1, 1), 5), ((2, 5, 10, 9), (5, 1, 5, 5), (2, 2), 5),
    ((2, 4, 9, 8), (6, 2, 3, 3), (1, 1), 2)])
def test_convolutions_for_training_equal_chainers(shape, filters, stride, groups):
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 1, size).astype(np.float32) for size in (shape, filters, filters[:1])]
    found = []
    for function in convolution_2d, F.convolution_2d:
        inputs = [chainer.Variable(value) for value in values]
        y = function(*inputs, stride=stride, pad=(0, 0), groups=groups)
        y.grad = np.random.default_rng(1).normal(0, 1, y.shape).astype(np.float32)
        y.backward()
        found.append([y.array, *(v.grad for v in inputs)])
    for ours, chainers in zip(*found, strict=True):
        np.testing.assert_allclose(ours, chainers, rtol=0, atol=2e-6 * np.abs(chainers).max())
