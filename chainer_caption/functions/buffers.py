"""Large arrays that are used again, update after update.

Memory that is new to a process is given out page by page as it is first written, which makes a matrix product into a
fresh array of tens of megabytes up to half as slow. CuPy has a pool of memory for this reason; NumPy has none.
"""
import collections
import threading

import chainer
import numpy as np

# Free arrays, flat, of float32, the smallest first. More than these few are not kept.
_free = []
_lock = threading.Lock()
_KEPT = 6

# Those that were given back since the last `take`. The garbage collector may call `give` in the midst of `take`, so
# `give` must neither wait for the lock nor touch the list; a deque can be added to at any moment.
_returned = collections.deque(maxlen=_KEPT)


def acquire(xp, shape):
    """An uninitialised array to be given back with `give`.

    Args:
        xp (module): numpy or cupy.
        shape (tuple of int): Its shape.

    Returns:
        array: float32, C-contiguous.
    """
    if xp is not np:
        return xp.empty(shape, np.float32)
    size = int(np.prod(shape))
    with _lock:
        while _returned:
            _free.append(_returned.popleft())
        _free.sort(key=lambda flat: flat.size)
        # The largest are those worth keeping.
        del _free[:-_KEPT]
        fitting = next((i for i, flat in enumerate(_free) if flat.size >= size), None)
        flat = None if fitting is None else _free.pop(fitting)
    if flat is None:
        # The next one may be somewhat larger: batches differ in their number of words.
        flat = np.empty(size + size // 4, np.float32)
    return flat[:size].reshape(shape)


def release(array):
    """Gives back an array that `take` has returned; it must not be used any more."""
    if not isinstance(array, np.ndarray):
        return
    flat = array
    while flat.base is not None:
        flat = flat.base
    _returned.append(flat)


def column_sums(x):
    """The sum of the rows of (n, m): (m,). As a product, which is several times as fast as NumPy's own sum."""
    xp = chainer.backend.get_array_module(x)
    return xp.dot(xp.ones(len(x), x.dtype), x)
