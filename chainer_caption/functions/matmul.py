"""Matrix products on every core, by threads that sleep when they have nothing to do.

The threads of BLAS wait for each other by spinning, at the end of every product. On a machine that has anything else
to do, even a browser, that turns a small product into a tenth of its speed: one thread spins while the other waits for
its core. Here each core computes a part of the result with BLAS on one thread, and no part waits for another. On an
idle machine that is as fast.
"""
import functools

import chainer
import numpy as np
import threadpoolctl

from chainer_caption.errors import InputError
from chainer_caption.functions.bfloat16 import PackedMatrix, available, bfloat16_matmul, serial
from chainer_caption.functions.compiled import parallel_for
from chainer_caption.functions.cpu_count import thread_count
from chainer_caption.parallel import SharedContext

#: In what matrix products are computed on the CPU: as they are, or from factors rounded to bfloat16.
PRECISIONS = 'float32', 'bf16'

# Of each thread its own, as all settings of Chainer; see `using_precision`.
chainer.global_config.precision = 'float32'

# Below this many multiplications a product is done before a second thread has woken up.
_SMALL = 2 ** 21


def using_precision(precision, device, say):
    """A context in which this thread's products are computed in a precision, if the device can.

    It is `chainer.using_config('precision', precision)` with a check and a notice.

    Args:
        precision (str): One of `PRECISIONS`.
        device (chainer.backend.Device): Where they are to be computed.
        say (callable): Takes a notice, one line, where it is to be float32 after all.

    Raises:
        InputError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f'--precision {precision}: must be {" or ".join(PRECISIONS)}')
    if precision == 'bf16' and (device.xp is not np or not available()):
        say('--precision bf16: ' + ('this CPU has no AVX512_BF16' if device.xp is np else 'is for CPUs')
            + '; computing in float32')
        precision = 'float32'
    return chainer.using_config('precision', precision)


def arithmetic(device):
    """What the numbers that this thread computes on a device follow from, besides what they are computed of: a str."""
    precision = chainer.config.precision
    return device.xp.__name__ if precision == 'float32' else f'{device.xp.__name__}, {precision}'


def one_blas_thread():
    """A context in which BLAS takes one thread for each call, in the whole process; any threads may enter it."""
    return _one_blas_thread


_one_blas_thread = SharedContext(lambda: _blas().limit(limits=1, user_api='blas'))


@functools.lru_cache(maxsize=1)
def _blas():
    return threadpoolctl.ThreadpoolController()


def prepack(b):
    """The right factor of several products, for `matmul`: what can be done once for all of them has been done."""
    return PackedMatrix(b) if isinstance(b, np.ndarray) and _rounds(b) else b


def _rounds(x):
    return chainer.config.precision == 'bf16' and x.dtype == np.float32 and available()


def matmul(a, b, out=None):
    """The matrix product a b; on the CPU, within `one_blas_thread`, each core computes a part of it.

    Where `chainer.config.precision` is `'bf16'` factors of float32 are rounded to bfloat16 on the CPU.

    Args:
        a (array): (n, k), NumPy or CuPy; transposed views are as good.
        b (array or PackedMatrix): (k, m); see `prepack`.
        out (array or None): Where to, (n, m), C-contiguous.

    Returns:
        array: (n, m), of the dtype of `a`.
    """
    xp = chainer.backend.get_array_module(a)
    if xp is not np:
        return xp.dot(a, b, out=out)
    n, m = len(a), b.shape[1]
    if out is None:
        out = np.empty((n, m), a.dtype)
    small = n * m * a.shape[1] < _SMALL
    if isinstance(b, PackedMatrix) or (_rounds(a) and _rounds(b)):
        bfloat16_matmul(a, b, out, serial if small else parallel_for)
        return out
    if not _one_blas_thread.inside or small or thread_count() == 1:
        return np.dot(a, b, out=out)
    # Each part packs the whole of the factor that is not cut, so the longer side of the result is cut. But not where
    # that would cut across the columns of a transposed factor, whose rows then lie a power of two apart in memory and
    # push each other out of the cache.
    if n >= m and a.flags.c_contiguous:
        parallel_for(_by_rows, n, a, b, out)
    else:
        parallel_for(_by_columns, m, a, b, out)
    return out


def _by_rows(a, b, out, start, stop):
    np.dot(a[start:stop], b, out=out[start:stop])


def _by_columns(a, b, out, start, stop):
    np.matmul(a, b[:, start:stop], out=out[:, start:stop])
