"""What the compiled loops share: compilation, threads, and the arithmetic inside them."""
import concurrent.futures
import contextlib
import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from chainer_caption.functions.cpu_count import thread_count

# Sums may be reordered and fused, which is what lets a loop be vectorised; infinities and NaN keep their meaning,
# because a search scores what it must not choose with -inf.
_njit = functools.partial(numba.njit, nogil=True, error_model='numpy', fastmath={'contract', 'reassoc', 'nsz'})
inlined = functools.partial(numba.njit, inline='always')

#: An array of NumPy or of CuPy.
Array = Any

_ONE, _TWO = np.float32(1), np.float32(2)
_LEAST_EXPONENT = np.float32(-87.3)


def compiled(function: Callable) -> Any:
    """A function that is compiled when it is first called. The compiled code is cached for the next process, in
    NUMBA_CACHE_DIR, beside the module, or in the user's cache; where none is writable, each process compiles again.
    Caches are pickles, so a folder that other users can write is never used."""
    # Without a home directory, Numba would use a folder named ~ in the current folder.
    cache = os.environ.get('NUMBA_CACHE_DIR') or os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~')
    if os.path.isabs(cache):
        with contextlib.suppress(RuntimeError):         # "cannot cache function …: no locator available"
            return _njit(cache=True)(function)
    return _njit(function)


@functools.lru_cache(maxsize=1)
def _pool(process, threads):
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix='chainer_caption')


def parallel_for(loop: Callable, rows: int, *args: Any) -> None:
    """Calls `loop(*args, start, stop)` over parts of `range(rows)`, one for each core.

    Each call writes rows of its own, so the result is the same for any number of threads. (Numba's parallel loops would
    bring a second thread pool that spins against that of BLAS, and take seconds to compile.)"""
    threads = min(most := thread_count(), rows)
    if threads < 2:
        loop(*args, 0, rows)
        return
    bounds = [rows * i // threads for i in range(threads + 1)]
    # After a fork the parent's threads are gone, hence a pool for each process. Its size does not depend on the rows.
    pool = _pool(os.getpid(), most - 1)
    others = [pool.submit(loop, *args, start, stop) for start, stop in itertools.pairwise(bounds[1:])]
    loop(*args, 0, bounds[1])
    for other in others:
        other.result()


def check_ids(ids: Any, count: int) -> None:
    """Raises IndexError where ids of an array on the CPU are not in [0, count): compiled loops do not check bounds.
    Arrays of a GPU are not looked at, since that would wait for it."""
    if isinstance(ids, np.ndarray) and ids.size and not (ids.min() >= 0 and ids.max() < count):
        raise IndexError(f'word ids from {ids.min()} to {ids.max()}, but the model has {count} words; do the model and '
                         'the vocabulary belong together?')


@inlined
def exp(x):
    """e**x in float32 to 1.2e-7 relative, in operations that vectorise: 2**n times a polynomial (Cody and Waite's
    reduction; the polynomial is the minimax one of Cephes' expf)."""
    # The bounds keep 2**n a normal number; what is below the lower one is 0, as of -inf. NaN passes through them.
    zero = x < _LEAST_EXPONENT
    x = min(max(x, _LEAST_EXPONENT), np.float32(88.3))
    n = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = (np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)) * r + np.float32(8.3334519073e-3)
    p = ((p * r + np.float32(4.1665795894e-2)) * r + np.float32(1.6666665459e-1)) * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + _ONE
    p = np.float32(0) if zero else p
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@inlined
def sigmoid(x):
    return _ONE / (_ONE + exp(-x))


@inlined
def tanh(x):
    """In float32 to 3e-7 relative: near 0, where the exponential cancels, by Cephes' polynomial."""
    z = x * x
    p = (np.float32(-5.70498872745e-3) * z + np.float32(2.06390887954e-2)) * z - np.float32(5.37397155531e-2)
    p = (p * z + np.float32(1.33314422036e-1)) * z - np.float32(3.33332819422e-1)
    large = _ONE - _TWO / (_ONE + exp(_TWO * x))
    return p * z * x + x if abs(x) < np.float32(0.625) else large


@inlined
def hash32(index, key0, key1):
    """32 bits that look random, a pure function of a position and a key (see functions.dropout)."""
    h = np.uint32(index ^ key0)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85ebca6b))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xc2b2ae35))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) + key1)
    h = np.uint32(h * np.uint32(0x85ebca6b))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xc2b2ae35))
    return np.uint32(h ^ (h >> np.uint32(16)))


# The same bits in CUDA's C, for the elementwise kernels.
HASH32_CUDA = '''
__device__ __forceinline__ unsigned int hash32(unsigned int index, unsigned int key0, unsigned int key1) {
    unsigned int h = index ^ key0;
    h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16; h += key1;
    h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
    return h;
}
'''
