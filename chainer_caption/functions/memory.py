"""Memory limits: the free memory of a GPU, and a one-line error where memory was not enough."""
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import chainer
from chainer.backends import cuda

from chainer_caption.errors import InputError


def free_bytes(device: Any) -> int:
    """Bytes that new arrays on a GPU can take at this moment: its free memory and that of CuPy's pool, within the
    pool's limit."""
    with chainer.using_device(device):
        pool = cuda.cupy.get_default_memory_pool()
        free = cuda.cupy.cuda.runtime.memGetInfo()[0] + pool.free_bytes()
        return min(free, pool.get_limit() - pool.used_bytes()) if pool.get_limit() else free


def peak_bytes(device: Any, function: Callable[[], Any]) -> int:
    """Bytes that a function, which is called once, takes on a GPU at its peak."""
    with chainer.using_device(device):
        pool = cuda.cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        function()
        return pool.total_bytes() - before


@contextlib.contextmanager
def enough_memory(device: Any, *advice: str) -> Iterator[None]:
    """Context in which running out of memory on a chainer.backend.Device is an InputError, one line, with advice on
    what to do besides freeing memory or using the CPU: `'lower --batch-size'`."""
    try:
        yield
    except MemoryError as e:                            # CuPy's own is one, too
        on_gpu = device.xp is cuda.cupy
        where, elsewhere = (f'-g {device.device.id}: ', ['leave out -g']) if on_gpu else ('', [])
        raise InputError(f'{where}{str(e).rstrip(".") or "out of memory"}; '
                         + ' or '.join(['free some', *advice, *elsewhere])) from e
