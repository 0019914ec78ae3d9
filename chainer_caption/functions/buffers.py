"""Large arrays that are reused, update after update.

Memory that is new to a process is mapped page by page as it is first written: a matrix product into a large new array
takes up to half as long again. CuPy has a pool of memory for this reason; NumPy has none."""
import collections
import threading
from typing import Any

import chainer
import numpy as np

# Free arrays, flat, of float32, the smallest first. More than these few are not kept.
_free: list[np.ndarray] = []
_lock = threading.Lock()
_KEPT = 6

# Arrays given back since the last `acquire`. The garbage collector may call `release` during `acquire`, so it must
# neither wait for the lock nor touch the list; a deque can be appended to at any moment.
_returned: collections.deque[np.ndarray] = collections.deque(maxlen=_KEPT)


def acquire(xp: Any, shape: tuple[int, ...]) -> Any:
    """An uninitialised array of the module numpy or cupy, float32, C-contiguous, to be given back with `release`."""
    if xp is not np:
        return xp.empty(shape, np.float32)
    size = int(np.prod(shape))
    with _lock:
        while _returned:
            _free.append(_returned.popleft())
        _free.sort(key=lambda flat: flat.size)
        del _free[:-_KEPT]                              # the largest are those worth keeping
        fitting = next((i for i, flat in enumerate(_free) if flat.size >= size), None)
        # A new one is somewhat larger, for the next: batches differ in their number of words.
        flat = np.empty(size + size // 4, np.float32) if fitting is None else _free.pop(fitting)
    return flat[:size].reshape(shape)


def release(array: Any) -> None:
    """Gives back an array from `acquire`, which must not be used any more."""
    if isinstance(array, np.ndarray):
        while array.base is not None:
            array = array.base
        _returned.append(array)


def column_sums(x: Any) -> Any:
    """The sum of the rows of (n, m): (m,). As a product, which is several times as fast as NumPy's own sum."""
    xp = chainer.backend.get_array_module(x)
    return xp.dot(xp.ones(len(x), x.dtype), x)
