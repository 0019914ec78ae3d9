"""What the compiled loops share: how they are compiled, how they use every core, and the arithmetic inside them."""
import concurrent.futures
import contextlib
import functools
import itertools
import os

import numba
import numpy as np

from chainer_caption.functions.cpu_count import thread_count

# Sums may be reordered and fused, which is what lets a loop be vectorised; infinities and NaN keep their meaning,
# because a search scores what it must not choose with -inf.
_njit = functools.partial(numba.njit, nogil=True, error_model='numpy', fastmath={'contract', 'reassoc', 'nsz'})
inlined = functools.partial(numba.njit, inline='always')

_ONE = np.float32(1)
_TWO = np.float32(2)


def compiled(function):
    """A function that is compiled when it is first called. What comes of it is kept for the next process, in
    NUMBA_CACHE_DIR, beside the module, or in the user's cache; where none can be written, each process compiles anew.

    There is no further place: Numba keeps pickles, and must find none that others have left in a folder for all.
    """
    # Where nobody knows the home, Numba would take a folder named ~ in whatever folder it is started from.
    cache = os.environ.get('NUMBA_CACHE_DIR') or os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~')
    if os.path.isabs(cache):
        with contextlib.suppress(RuntimeError):         # "cannot cache function …: no locator available"
            return _njit(cache=True)(function)
    return _njit(function)


@functools.lru_cache(maxsize=1)
def _pool(process, threads):
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix='chainer_caption')


def parallel_for(loop, rows, *args):
    """Calls `loop(*args, start, stop)` over parts of `range(rows)`, one a core.

    The loops write rows that are theirs alone, so the outcome is the same for any number of threads. Threads of our
    own, and not Numba's parallel loops, because those bring a second pool that spins against the one of BLAS and take
    seconds to compile.
    """
    most = thread_count()
    threads = min(most, rows)
    if threads < 2:
        loop(*args, 0, rows)
        return
    bounds = [rows * i // threads for i in range(threads + 1)]
    # After a fork the parent's threads are gone, hence a pool for each process. Few rows are no reason for another.
    pool = _pool(os.getpid(), most - 1)
    others = [pool.submit(loop, *args, start, stop) for start, stop in itertools.pairwise(bounds[1:])]
    loop(*args, 0, bounds[1])
    for other in others:
        other.result()


@inlined
def exp(x):
    """e**x in float32 to 1.2e-7 relative, in operations that vectorise: 2**n times a polynomial (Cody and Waite's
    reduction; the polynomial is the minimax one of Cephes' expf)."""
    # The bounds keep 2**n a normal number. NaN passes through them.
    x = min(max(x, np.float32(-87.3)), np.float32(88.3))
    n = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + _ONE
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@inlined
def sigmoid(x):
    return _ONE / (_ONE + exp(-x))


@inlined
def tanh(x):
    return _ONE - _TWO / (_ONE + exp(_TWO * x))


@inlined
def hash32(index, key0, key1):
    """32 bits that look random, a pure function of a position and a key (see functions.dropout)."""
    h = np.uint32(index ^ key0)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85ebca6b))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xc2b2ae35))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h + key1)
    h = np.uint32(h * np.uint32(0x85ebca6b))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xc2b2ae35))
    return np.uint32(h ^ (h >> np.uint32(16)))


# The same bits in CUDA's C, for the elementwise kernels.
HASH32_CUDA = '''
__device__ __forceinline__ unsigned int hash32(unsigned int index, unsigned int key0, unsigned int key1) {
    unsigned int h = index ^ key0;
    h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
    h += key1;
    h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
    return h;
}
'''
