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

from chainer_caption.functions.compiled import in_threads
from chainer_caption.functions.cores import thread_count
from chainer_caption.parallel import SharedContext

# Below this many multiplications a product is done before a second thread has woken up.
_SMALL = 2 ** 21


def one_blas_thread():
    """A context in which BLAS takes one thread for each call, in the whole process; any threads may enter it."""
    return _one_blas_thread


_one_blas_thread = SharedContext(lambda: _blas().limit(limits=1, user_api='blas'))


@functools.lru_cache(maxsize=1)
def _blas():
    return threadpoolctl.ThreadpoolController()


def product(a, b, out=None):
    """The matrix product a b; on the CPU, within `one_blas_thread`, each core computes a part of it.

    Args:
        a (array): (n, k), NumPy or CuPy; transposed views are as good.
        b (array): (k, m).
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
    if not _one_blas_thread.inside or n * m * a.shape[1] < _SMALL or thread_count() == 1:
        return np.dot(a, b, out=out)
    # Each part packs the whole of the factor that is not cut, so the longer side of the result is cut. But not where
    # that would cut across the columns of a transposed factor, whose rows then lie a power of two apart in memory and
    # push each other out of the cache.
    if n >= m and a.flags.c_contiguous:
        in_threads(_by_rows, n, a, b, out)
    else:
        in_threads(_by_columns, m, a, b, out)
    return out


def _by_rows(a, b, out, start, stop):
    np.dot(a[start:stop], b, out=out[start:stop])


def _by_columns(a, b, out, start, stop):
    np.matmul(a, b[:, start:stop], out=out[:, start:stop])
