"""Matrix products on every core, by threads that sleep when they have nothing to do.

The threads of BLAS wait for each other by spinning, at the end of every product: on a machine with any other load, a
small product drops to a tenth of its speed. Here each core computes a part of the result with BLAS on one thread, and
no part waits for another. An idle machine is as fast."""
import functools
from collections.abc import Callable, Sequence
from typing import Any

import chainer
import numpy as np
import threadpoolctl

from chainer_caption.errors import InputError
from chainer_caption.functions.compiled import Array, parallel_for
from chainer_caption.functions.cpu_count import thread_count
from chainer_caption.parallel import SharedContext

#: How matrix products are computed on the CPU: in float32, or from factors rounded to bfloat16.
PRECISIONS = 'float32', 'bf16'

# Of each thread its own, as all settings of Chainer; see `using_precision`.
chainer.global_config.precision = 'float32'

_SMALL = 2 ** 21        # Below this many multiplications a product is done before a second thread has woken up.


def using_precision(precision: str, device: Any, say: Callable[[str], Any]) -> Any:
    """`chainer.using_config('precision', precision)`, a context in which this thread's products are computed in one of
    `PRECISIONS` (else an InputError), if the chainer.backend.Device supports it; if not, `say` takes a one-line
    notice."""
    if precision not in PRECISIONS:
        raise InputError.of('precision', precision, f'must be {" or ".join(PRECISIONS)}')
    if precision == 'bf16' and (device.xp is not np or not available()):
        say('--precision bf16: ' + ('this CPU has no AVX512_BF16' if device.xp is np else 'is for CPUs')
            + '; computing in float32')
        precision = 'float32'
    return chainer.using_config('precision', precision)


def arithmetic(device: Any) -> str:
    """Names the library and the precision that this thread computes with on a device: on these, too, results depend."""
    precision = chainer.config.precision
    return device.xp.__name__ if precision == 'float32' else f'{device.xp.__name__}, {precision}'


def available() -> bool:
    """Whether this CPU multiplies bfloat16."""
    from chainer_caption.functions import bfloat16  # needs private parts of Numba: only if asked for
    return bfloat16.available()


def one_blas_thread() -> SharedContext:
    """A context in which BLAS takes one thread for each call, in the whole process; any threads may enter it."""
    return _one_blas_thread


@functools.lru_cache(maxsize=1)
def _blas() -> Any:
    return threadpoolctl.ThreadpoolController()


_one_blas_thread: SharedContext = SharedContext(lambda: _blas().limit(limits=1, user_api='blas'))


def prepack(b: Array) -> Any:
    """The right factor of several products, prepared for `matmul`: where it is rounded, that is done once."""
    if not (isinstance(b, np.ndarray) and _rounds(b)):
        return b
    from chainer_caption.functions.bfloat16 import PackedMatrix
    return PackedMatrix(b)


def _rounds(x: Array) -> bool:
    return chainer.config.precision == 'bf16' and x.dtype == np.float32 and available()


def matmul(a: Array, b: Any, out: Array | None = None) -> Array:
    """The matrix product a b; on the CPU, within `one_blas_thread`, each core computes a part of it.

    Where `chainer.config.precision` is `'bf16'` factors of float32 are rounded to bfloat16 on the CPU.

    Args:
        a: (n, k), NumPy or CuPy; transposed views are as fast.
        b: (k, m), an array or from `prepack`.
        out: Output, (n, m), C-contiguous, of the dtype of `a`; None for a new array, which is returned.
    """
    xp = chainer.backend.get_array_module(a)
    if xp is not np:
        return xp.dot(a, b, out=out)
    n, m = len(a), b.shape[1]
    out = np.empty((n, m), a.dtype) if out is None else out
    small = n * m * a.shape[1] < _SMALL
    if not isinstance(b, np.ndarray) or (_rounds(a) and _rounds(b)):    # a PackedMatrix
        from chainer_caption.functions.bfloat16 import bfloat16_matmul, serial
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


def by_captions(run: Callable, batch_sizes: Sequence[int], recurring: Any) -> None:
    """Calls `run(low, high, multiply)` for ranges of the captions of a packed minibatch, until it has had all of them.

    With a prepacked bfloat16 factor each thread takes captions of its own through all steps. BLAS would pack the whole
    factor for each thread at each step: it is given all captions at once, and the threads share each product.

    `run` multiplies by `multiply(a, recurring, out=…)`, where `recurring` is from `prepack`; `batch_sizes` are the
    numbers of rows of the steps."""
    first = batch_sizes[0]
    if not hasattr(recurring, 'packed'):
        run(0, first, matmul)
        return
    from chainer_caption.functions.bfloat16 import bfloat16_matmul, serial
    lengths = (np.array(batch_sizes)[:, None] > np.arange(first)).sum(axis=0)
    threads = min(thread_count(), first)
    ends = np.searchsorted(np.cumsum(lengths), sum(batch_sizes) * np.arange(1, threads) / threads) + 1
    bounds = [0, *ends.tolist(), first]
    multiply = functools.partial(bfloat16_matmul, loop=serial)
    parallel_for(lambda start, stop: run(bounds[start], bounds[stop], multiply), threads)


def _by_rows(a, b, out, start, stop):
    np.dot(a[start:stop], b, out=out[start:stop])


def _by_columns(a, b, out, start, stop):
    np.matmul(a, b[:, start:stop], out=out[:, start:stop])
