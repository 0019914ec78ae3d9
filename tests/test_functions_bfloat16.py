"""Products of bfloat16: right to the last bit of float32 sums, in whatever company, and only where the CPU can."""
import subprocess
import sys

import chainer
import chainer.functions as F
import numpy as np
import pytest

from chainer_caption import InputError
from chainer_caption.functions.bfloat16 import available, bfloat16_matmul
from chainer_caption.functions.lstm import lstm_sequence
from chainer_caption.functions.matmul import matmul, prepack, using_precision

needs_bfloat16 = pytest.mark.skipif(not available(), reason='needs a CPU with AVX512_BF16')
CPU = chainer.get_device('@numpy')


def rounded(x):
    """The nearest numbers of 8 bits, ties to even, by arithmetic alone; float64."""
    fraction, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(fraction * 256) / 256, exponent)


def factors(n, k, m):
    """The same two factors in every order in which they may lie in memory."""
    rng = np.random.default_rng(n + k + m)
    a, b = rng.standard_normal((n, k), np.float32), rng.standard_normal((k, m), np.float32)
    a[:, ::5], b[::7] = 1 + 3 / 256, -1 - 5 / 256        # halfway between two: the one is rounded up, the other down
    for left in a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2]:
        for right in b, np.asfortranarray(b), np.repeat(b, 2, axis=0)[::2]:
            yield left, right


@needs_bfloat16
@pytest.mark.parametrize(('n', 'k', 'm'), [(1, 1, 1), (3, 0, 4), (0, 5, 4), (7, 3, 33), (16, 32, 32), (17, 33, 31),
                                           (40, 1501, 70), (130, 64, 512), (300, 700, 130)])
def test_sums_the_products_of_rounded_factors(n, k, m):
    for a, b in factors(n, k, m):
        expected = rounded(a) @ rounded(b)
        largest = np.abs(rounded(a)) @ np.abs(rounded(b))
        around = np.full((n + 2, m), 7, np.float32)
        bfloat16_matmul(a, b, around[1:-1])
        assert (np.abs(around[1:-1] - expected) <= 2e-6 * largest).all()
        assert (around[[0, -1]] == 7).all()


@needs_bfloat16
def test_a_number_is_the_same_in_any_company_and_on_any_number_of_threads(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((900, 600), np.float32), rng.standard_normal((600, 700), np.float32)
    found = []
    for threads in '1', '3':
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
        with chainer.using_config('precision', 'bf16'):
            found.append(matmul(a, b))
            np.testing.assert_array_equal(found[-1][5:6, 40:51], matmul(a[5:6], b[:, 40:51]))
            np.testing.assert_array_equal(found[-1][7:99], matmul(a[7:99], prepack(b)))
    np.testing.assert_array_equal(*found)


@needs_bfloat16
def test_what_is_no_number_stays_where_it_belongs():
    a, b = np.ones((9, 5), np.float32), np.ones((5, 35), np.float32)
    # The second NaN has only bits that rounding drops.
    a[2, 4], a[3, 1], a[4, 0] = np.inf, np.nan, np.array(0x7f800001, np.uint32).view(np.float32)
    b[0, 34] = -np.inf
    with chainer.using_config('precision', 'bf16'):
        y = matmul(a, b)
    expected = np.full((9, 35), 5, np.float32)
    expected[2], expected[:, 34], expected[3:5], expected[2, 34] = np.inf, -np.inf, np.nan, np.nan
    np.testing.assert_array_equal(y, expected)


def test_a_cpu_that_cannot_is_told_in_one_line_and_computes_in_float32(monkeypatch):
    monkeypatch.setattr(sys.modules['chainer_caption.functions.matmul'], 'available', lambda: False)
    a, said = np.random.default_rng(0).standard_normal((70, 70), np.float32), []
    with using_precision('bf16', CPU, said.append):
        np.testing.assert_array_equal(matmul(a, a), np.dot(a, a))
    line, = said
    assert 'AVX512_BF16' in line and 'float32' in line
    # Nor does an unchecked setting end the process.
    with chainer.using_config('precision', 'bf16'):
        np.testing.assert_array_equal(matmul(a, a), np.dot(a, a))


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match='precision fp8: must be float32 or bf16'):
        using_precision('fp8', CPU, None)


@needs_bfloat16
def test_only_who_asks_for_it_gets_it():
    a = np.random.default_rng(0).standard_normal((70, 70), np.float32)
    with using_precision('bf16', CPU, None):
        assert np.abs(matmul(a, a) - np.dot(a, a)).max() > 1e-3
        double = a.astype(np.float64)
        np.testing.assert_array_equal(matmul(double, double), np.dot(double, double))
    np.testing.assert_array_equal(matmul(a, a), np.dot(a, a))


@needs_bfloat16
@pytest.mark.parametrize('batch_sizes', [[5], [6, 6, 6], [9, 8, 8, 3, 1, 1], [1, 1]])
def test_threads_share_the_captions_of_an_lstm_and_change_nothing(batch_sizes, monkeypatch):
    rng = np.random.default_rng(sum(batch_sizes))
    shapes = (sum(batch_sizes), 20), (4 * 24, 20), (4 * 24,), (4 * 24, 24)
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    weights = rng.standard_normal((sum(batch_sizes), 24), np.float32)
    starts = np.cumsum([0, *batch_sizes])[:-1]

    def computed():
        inputs = [chainer.Variable(array) for array in arrays]
        h = lstm_sequence(*inputs, batch_sizes)
        F.sum(h * weights).backward()
        return [h.array, *(v.grad for v in inputs)]

    with chainer.using_config('precision', 'bf16'):
        found = []
        for threads in '1', '2', '3', '16':
            monkeypatch.setenv('OMP_NUM_THREADS', threads)
            found.append(computed())
        for caption in range(batch_sizes[0]):
            rows = starts[:sum(size > caption for size in batch_sizes)] + caption
            serial = lstm_sequence(arrays[0][rows], *arrays[1:], [1] * len(rows)).array
            np.testing.assert_array_equal(found[0][0][rows], serial)
    for others in found[1:]:
        for x, y in zip(others, found[0], strict=True):
            np.testing.assert_array_equal(x, y)


def test_without_numbas_private_parts_float32_works(package_environment):
    program = '''if True:
        import sys
        import numba
        sys.modules['numba.core.registry'] = sys.modules['numba.core.cgutils'] = None
        from chainer_caption.functions import bfloat16, lstm, matmul
        assert not bfloat16.available()'''
    subprocess.run([sys.executable, '-c', program], env=package_environment, check=True)
