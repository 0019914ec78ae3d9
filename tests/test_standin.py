"""The stand-in for CuPy: it refuses what CuPy refuses, finds what a GPU would hide, and runs what is marked gpu."""
import ctypes
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(shutil.which('g++') is None, reason='needs g++')

TESTS = pathlib.Path(__file__).resolve().parent
STANDIN = TESTS / 'standin'


@pytest.fixture(scope='module')
def cp():
    """The stand-in, under a name of its own: it is no CuPy to the rest of this process."""
    if getattr(sys.modules.get('cupy'), 'standin', None):
        return sys.modules['cupy']
    spec = importlib.util.spec_from_file_location('standin_cupy', STANDIN / 'cupy' / '__init__.py',
                                                  submodule_search_locations=[str(STANDIN / 'cupy')])
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def x(cp):
    return cp.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))


# ---- What runs on it

def test_all_that_is_marked_gpu_passes_on_the_standin(package_environment, tmp_path):
    if 'PYTEST_ON_STANDIN' in os.environ:
        pytest.skip('this is it')
    path = os.pathsep.join([str(STANDIN), package_environment['PYTHONPATH']])
    done = subprocess.run([sys.executable, '-m', 'pytest', '-m', 'gpu', '-p', 'no:cacheprovider', str(TESTS)],
                          env={**package_environment, 'PYTHONPATH': path,
                               'STANDIN_CACHE': str(tmp_path), 'PYTEST_ON_STANDIN': '1'},
                          cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ' passed' in done.stdout and 'failed' not in done.stdout


def test_what_an_update_and_a_step_of_the_search_cost_is_printed(package_environment):
    done = subprocess.run([sys.executable, STANDIN / 'counts.py'], env=package_environment, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    update, _, self_critical, _, step, _ = done.stdout.splitlines()
    assert update.endswith(' uploads, 0 waits') and ' launches, ' in step
    # Of captions of 30 words the host asks four times which have ended.
    assert self_critical.endswith(', 4 waits')


# ---- Arrays of the host

def test_numpy_arrays_are_not_made_implicitly_as_in_cupy(x):
    for convert in (np.asarray, np.array, np.ascontiguousarray, lambda a: np.zeros((2, 3)).__setitem__(0, a[0])):
        with pytest.raises(TypeError, match='Implicit conversion to a NumPy array is not allowed'):
            convert(x)


@pytest.mark.parametrize('mix', [
    lambda cp, x, a: x + a, lambda cp, x, a: a + x, lambda cp, x, a: x.__iadd__(a), lambda cp, x, a: x < a,
    lambda cp, x, a: cp.maximum(x, a), lambda cp, x, a: cp.where(x > 0, x, a), lambda cp, x, a: cp.dot(x, a.T),
    lambda cp, x, a: x.dot(a.T), lambda cp, x, a: cp.matmul(x, a.T), lambda cp, x, a: cp.sum(a),
    lambda cp, x, a: cp.take_along_axis(x, a.astype(int), 1), lambda cp, x, a: cp.exp(a), lambda cp, x, a: x * [1],
    lambda cp, x, a: np.add(x, a), lambda cp, x, a: cp.exp(x, out=a), lambda cp, x, a: cp.concatenate([x, a])])
def test_arrays_of_the_host_do_not_mix_with_the_devices_as_in_cupy(cp, x, mix):
    with pytest.raises(TypeError, match=r'nsupported type|must be cupy\.ndarray|Only cupy arrays'):
        mix(cp, x, np.ones((2, 3), np.float32))


def test_an_array_of_the_host_is_not_assigned_as_in_cupy(x):
    with pytest.raises(ValueError, match=r'non-scalar numpy.ndarray cannot be used for fill'):
        x[...] = np.ones((2, 3), np.float32)
    x[0] = np.float32(7)
    assert x.get().tolist() == [[7, 7, 7], [3, 4, 5]]


def test_set_takes_only_an_array_of_the_same_dtype_and_shape_as_in_cupy(x):
    for wrong, error in ((np.ones((2, 3)), TypeError), (np.ones(6, np.float32), ValueError), ([1], TypeError)):
        with pytest.raises(error):
            x.set(wrong)


def test_numbers_of_the_host_mix_and_keep_numpys_rules_of_types(cp, x):
    assert (x * 2.5).dtype == (x + np.float32(1)).dtype == (np.float32(2) * x).dtype == np.float32
    assert (x * np.float64(2)).dtype == (np.float64(2) * x).dtype == np.float64
    assert (2 - x).get().tolist() == [[2, 1, 0], [-1, -2, -3]]


@pytest.mark.parametrize('dtype', [object, str, np.dtype('M8[s]'), np.longdouble])
def test_dtypes_that_a_device_does_not_have_are_refused_as_in_cupy(cp, dtype):
    with pytest.raises(ValueError, match='Unsupported dtype'):
        cp.zeros(3, dtype)


# ---- The host waits, or not

@pytest.mark.parametrize('wait', [
    float, int, bool, str, repr, lambda a: a.item(), lambda a: a.get(), lambda a: a.tolist(),
    lambda a: a.device.synchronize(),
    lambda a: a.reshape(1)[(a > 1).reshape(1)], lambda a: 'unequal' if a == 1 else 'equal',
    lambda a: a.reshape(1).nonzero()])
def test_what_waits_for_the_device_is_counted_and_can_be_forbidden(cp, wait):
    number = cp.zeros((), np.float32)
    with cp.standin.counted() as counts:
        wait(number)
    assert len(counts.synchronizations) == 1
    with cp.standin.no_sync(), pytest.raises(cp.standin.SynchronizedError):
        wait(number)
    wait(number)


def test_results_without_dimensions_stay_on_the_device_as_in_cupy(cp, x):
    with cp.standin.no_sync():
        for result in (x.sum(), x.max(), x[1, 2], x[0].dot(x[1]), x[0, 0] + 1, -x[0, 0], x.argmax(), cp.exp(x[0, 0])):
            assert isinstance(result, cp.ndarray) and result.shape == ()


def test_an_element_is_a_view(x):
    x[1, 2][...] = 9
    assert x.get()[1, 2] == 9


def test_uploads_and_launches_are_counted(cp, x):
    with cp.standin.counted() as counts:
        y = cp.asarray(np.ones(3, np.float32))
        x.set(np.ones((2, 3), np.float32))
        cp.exp(x * y, out=x)
        cp.asarray(x), x.reshape(3, 2).T[1:]            # neither copied nor uploaded
    assert len(counts.uploads) == 2 and counts.synchronizations == []
    assert counts.launches == {'multiply': 1, 'exp': 1}


# ---- Where results go

def test_out_must_fit_as_in_cupy(cp, x):
    wrong = (lambda: cp.add(x, x, out=cp.empty((3, 2), np.float32)), lambda: cp.add(x, 1, out=cp.empty(3, np.float32)),
             lambda: cp.dot(x, x.T, out=cp.empty((2, 2))), lambda: cp.dot(x, x.T, out=cp.empty((3, 3), np.float32)),
             lambda: cp.dot(x.T, x, out=cp.empty((3, 3), np.float32).T), lambda: x.sum(axis=0, out=cp.empty(2)))
    for call in wrong:
        with pytest.raises(ValueError, match=r'mismatched|Not supported dtype|C-contiguous|invalid size'):
            call()
    with pytest.raises(TypeError, match='same_kind'):
        cp.add(x, 0.5, out=cp.empty((2, 3), np.int32))


def test_a_device_does_not_warn_of_what_is_no_number(cp):
    odd = cp.asarray(np.array([[np.inf, -1], [0, np.nan]], np.float32))
    odd[0] = np.float64(1e300)
    for result in (odd / 0, cp.log(odd), odd.dot(odd), odd.sum(axis=0), odd.cumsum(axis=0), odd.astype(np.int32)):
        assert result.shape[-1] == 2


def test_a_product_that_is_written_over_a_factor_is_found(cp):
    square = cp.ones((2, 2), np.float32)
    with pytest.raises(cp.standin.RaceError):
        cp.dot(square, square, out=square)


def test_an_index_outside_of_the_array_is_refused_where_cupy_would_wrap_around(cp, x):
    for index in (2, np.array([0, 2]), cp.asarray(np.array([0, 2]))):
        with pytest.raises(IndexError):
            x[index]
    with pytest.raises(IndexError, match='integer or boolean'):
        x[cp.zeros(2)]


def test_two_values_for_one_place_are_refused_where_cupy_leaves_it_open(cp, x):
    twice = cp.asarray(np.array([1, 1]))
    with pytest.raises(cp.standin.RaceError):
        x[twice] = cp.ones((2, 3), np.float32)
    x[twice] = 5
    assert x.get()[1].tolist() == [5, 5, 5]


def test_memory_that_was_not_written_reads_as_nan_and_impossible_indices(cp):
    assert np.isnan(cp.empty((3, 4), np.float32).get()).all() and np.isnan(cp.empty(3).get()).all()
    for dtype in (np.int32, np.int64, np.uint32):
        with pytest.raises(IndexError):
            cp.zeros(100)[cp.empty(2, dtype)]
    kernel = cp.ElementwiseKernel('T x', 'T y', 'if (x > 2) y = x', 'half')
    assert np.isnan(kernel(cp.arange(6, dtype=np.float32)).get()).tolist() == [True] * 3 + [False] * 3


def test_what_is_missing_says_so(cp, x):
    for call in (lambda: cp.RawKernel('', 'f'), lambda: cp.ReductionKernel('', '', '', '', '', '', ''),
                 lambda: cp.fuse()(lambda x: x)(x), lambda: cp.ElementwiseKernel('T x', 'T y', 'y = x', loop_prep=';')):
        with pytest.raises(NotImplementedError, match='the stand-in'):
            call()
    with pytest.raises(AttributeError):
        cp.cbrt(x)


# ---- Kernels

def test_a_kernel_computes_over_views_and_broadcast_arrays(cp):
    rng = np.random.default_rng(0)
    a, b, t = rng.random((5, 4)), rng.random((5, 4, 3)), np.array([2, 0, 1], np.int32)
    kernel = cp.ElementwiseKernel('T x, T y, raw T z, int32 k, float32 w', 'T out, int64 place',
                                  'out = max(x * w, y) + z[k]; place = i', 'mixed')
    x, y, z = cp.asarray(a).T, cp.asarray(b)[:, 1, 2], cp.asarray(b)[1:, ::2, 1]
    out, place = kernel(x[:3], y, z, cp.asarray(t)[:, None], 0.5)
    expected = np.maximum(a.T[:3] * np.float32(0.5), b[:, 1, 2]) + b[1:, ::2, 1].ravel()[t][:, None]
    np.testing.assert_allclose(out.get(), expected, rtol=1e-15)
    np.testing.assert_array_equal(place.get(), np.arange(15).reshape(3, 5))


def test_arguments_of_the_wrong_type_are_refused_as_in_cupy(cp, x):
    kernel = cp.ElementwiseKernel('T x, int32 k, float32 w', 'T y', 'y = x * w + k', 'typed')
    ints = cp.ones((2, 3), np.int32)
    for wrong in ((x, ints.astype(np.int64), 1), (x, x, 1), (x, ints, ints), (x, ints, 1, cp.empty((2, 3))),
                  (x.astype(np.float64), ints, 1, x), (x, np.ones((2, 3), np.int32), 1), (x, ints, [1]),
                  (x, ints, None), (x, ints, 1, 1), (x, ints), (x, ints, 1, x, x)):
        with pytest.raises(TypeError):
            kernel(*wrong)
    assert kernel(x, 2.9, 2).get().tolist() == (x.get() * 2 + 2).tolist()      # numbers are cast, as in C


def test_an_array_is_no_index_of_a_list_as_in_cupy(cp):
    with pytest.raises(TypeError):
        [7][cp.zeros((), int)]


@pytest.mark.parametrize('params', ['T', 'T x, ', 'T x y', 'const T x', 'T i', 'XY x'])
def test_parameters_that_are_none_are_refused_as_in_cupy(cp, params):
    with pytest.raises((ValueError, TypeError)):
        cp.ElementwiseKernel(params, 'T y', 'y = x', 'wrong')


def test_types_that_no_array_decides_are_refused_as_in_cupy(cp, x):
    with pytest.raises(TypeError, match='no array says what U is'):
        cp.ElementwiseKernel('T x, U k', 'T y', 'y = x * k', 'undecided')(x, 2)


def test_sizes_that_do_not_fit_are_refused_as_in_cupy(cp, x):
    kernel = cp.ElementwiseKernel('T x, raw T z', 'T y', 'y = x + z[0]', 'sized')
    with pytest.raises(ValueError, match='mismatched'):
        kernel(x, x, cp.empty(3, np.float32))
    with pytest.raises(ValueError, match='broadcast'):
        kernel(x, x, cp.empty((4, 3), np.float32))
    all_raw = cp.ElementwiseKernel('raw T x', 'raw T y', 'y[i] = x[i]', 'all_raw')
    with pytest.raises(ValueError, match='Loop size is undecided'):
        all_raw(x, cp.empty_like(x))
    with pytest.raises(ValueError, match='Output array size'):
        cp.ElementwiseKernel('T x', 'raw T y', 'y[i] = x', 'undecided')(x)
    with pytest.raises(ValueError, match="'size'"):
        kernel(x, x, size=6)
    assert all_raw(x, cp.empty_like(x), size=6).get().tolist() == x.get().tolist()


@pytest.mark.parametrize('operation', ['x = 1', 'z[i] = 1', 'atomicAdd(&z[i], 1)', 'y = missing', 'y = x +'])
def test_what_the_compiler_would_refuse_is_refused(cp, x, operation):
    with pytest.raises(RuntimeError, match='cannot be compiled'):
        cp.ElementwiseKernel('T x, raw T z', 'T y', operation, 'wrong')(x, x)


@pytest.mark.parametrize(('operation', 'element', 'index'), [
    ('out = x + z[i + 1]', 5, 6), ('out = z[i - 1]', 0, -1), ('to[i * 3] = x', 2, 6),
    ('atomicAdd(&to[-i], x)', 1, -1)])
def test_an_index_outside_of_a_raw_argument_is_found(cp, x, operation, element, index):
    kernel = cp.ElementwiseKernel('T x, raw T z', 'T out, raw T to', operation, 'astray')
    name = 'to' if 'to[' in operation else 'z'
    with pytest.raises(IndexError, match=rf'^astray: element {element} asks for {name}\[{index}\], which has 6$'):
        kernel(x, x, cp.empty_like(x), cp.empty_like(x))


@pytest.mark.parametrize('operation', [
    'to[i / 2] = x', 'to[0] += x', 'to[i] = x; out = to[(i + 1) % 6]', 'out = to[(i + 1) % 6]; to[i] = x',
    'if (i == 3) to[0] = x; else atomicAdd(&to[0], x)', 'atomicAdd(&to[0], x); out = to[0]'])
def test_elements_that_meet_are_found(cp, x, operation):
    with pytest.raises(cp.standin.RaceError, match=r'^meet: element \d and .* meet at to\[\d\] without atomicAdd$'):
        cp.ElementwiseKernel('T x', 'T out, raw T to', operation, 'meet')(x, cp.empty_like(x), cp.zeros_like(x))


def test_elements_that_meet_in_atomicadd_or_keep_to_themselves_are_right(cp, x):
    kernel = cp.ElementwiseKernel('T x', 'T out, raw T to, raw T sum',
                                  'to[i] = x; to[i] *= 2; out = to[i] + atomicAdd(&sum[i % 2], x) * 0', 'fine')
    out, to, total = kernel(x, cp.empty_like(x), cp.empty_like(x), cp.zeros(2, np.float32))
    assert out.get().tolist() == to.get().tolist() == [[0, 2, 4], [6, 8, 10]] and total.get().tolist() == [6, 9]


def test_memory_that_is_read_here_and_written_there_is_found(cp):
    kernel = cp.ElementwiseKernel('T x', 'T y', 'y = 2 * x', 'double')
    line = cp.arange(6, dtype=np.float32)
    for y, x in ((line[1:], line[:-1]), (line[::-1], line), (line[:2], line[0])):
        with pytest.raises(cp.standin.RaceError):
            kernel(x, y)
    with pytest.raises(cp.standin.RaceError):
        kernel(line, cp.broadcast_to(cp.zeros(1, np.float32), (6,)))
    kernel(line[1::2], line[::2])
    kernel(line, line)
    assert line.get().tolist() == [4, 2, 12, 6, 20, 10]


# ---- Devices and their memory

def test_arrays_of_another_device_are_refused_as_in_cupy_without_peer_access(cp, x):
    with cp.cuda.Device(1):
        y = cp.ones((2, 3), np.float32)
        for call in (lambda: x + y, lambda: y + x, lambda: x * 2, x.sum, lambda: x[y.astype(int)],
                     lambda: cp.dot(y, x.T), lambda: y.__setitem__(0, x[0])):
            with pytest.raises(ValueError, match='Array device must be same as the current device'):
                call()
        assert cp.array(x).device.id == 1 and cp.asarray(x).device.id == 0
        assert x.get().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert y.device.id == 1 and cp.cuda.Device().id == 0
    with pytest.raises(ValueError, match='Array device must be same'):
        cp.exp(y)


def test_a_device_that_is_not_there(cp):
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match='cudaErrorInvalidDevice'):
        cp.cuda.Device(99).use()
    assert cp.cuda.Device().id == 0


def test_results_are_kept_for_each_device(cp):
    made = []
    function = cp.memoize(for_each_device=True)(lambda name: made.append(name) or len(made))
    assert [function('a'), function('b'), function('a')] == [1, 2, 1]
    with cp.cuda.Device(1):
        assert function('a') == 3


def test_memory_that_does_not_suffice_is_cupys_error(cp):
    pool = cp.get_default_memory_pool()
    before = pool.used_bytes()
    try:
        pool.set_limit(size=before + 4096)
        kept = cp.zeros(512)
        assert pool.used_bytes() == before + 4096
        with pytest.raises(cp.cuda.memory.OutOfMemoryError, match='Out of memory allocating 512 bytes'):
            kept[:1].copy()
        part = kept[:2]
        del kept
        assert pool.used_bytes() == before + 4096       # a view keeps all of it
        del part
        assert pool.used_bytes() == before and pool.total_bytes() >= before + 4096
        pool.free_all_blocks()
        assert pool.total_bytes() == before
    finally:
        pool.set_limit(size=0)
    assert issubclass(cp.cuda.memory.OutOfMemoryError, MemoryError)


def test_what_is_free_on_a_device(cp):
    free, total = cp.cuda.runtime.memGetInfo()
    kept = cp.empty(2 ** 20, np.uint8)
    assert cp.cuda.runtime.memGetInfo() == (free - 2 ** 20, total) or free == cp.cuda.runtime.memGetInfo()[0]
    with cp.cuda.Device(1):
        assert cp.cuda.runtime.memGetInfo()[1] == total
    del kept


def test_pointers_lead_to_an_arrays_numbers(cp, x):
    block = cp.cuda.alloc(24)
    block.copy_from_device((x.T.T[1:]).data, 12)
    copied = cp.ndarray(3, np.float32, memptr=block)
    assert copied.get().tolist() == [3, 4, 5]
    rows, columns = x.nonzero()
    assert ctypes.c_int64.from_address(columns.data.ptr + 8).value == 2 and rows.get().tolist() == [0, 0, 1, 1, 1]
    assert ctypes.c_float.from_address(copied.data.ptr + 4).value == 4
    with pytest.raises(IndexError):
        block.copy_from_device((x[1:]).data, 16)
