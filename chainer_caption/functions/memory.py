"""Memory that may not suffice: how much a GPU has left, and one line where it was not enough."""
import contextlib

import chainer
from chainer.backends import cuda

from chainer_caption.errors import InputError


def free_bytes(device):
    """Bytes that new arrays on a GPU can have: what nobody has there and what CuPy keeps for them, within its limit.

    Args:
        device (chainer.backend.Device): The GPU.

    Returns:
        int: At this moment; others may be taking from it.
    """
    with chainer.using_device(device):
        pool = cuda.cupy.get_default_memory_pool()
        free = cuda.cupy.cuda.runtime.memGetInfo()[0] + pool.free_bytes()
        return min(free, pool.get_limit() - pool.used_bytes()) if pool.get_limit() else free


def peak_bytes(device, function):
    """What a function takes on a GPU at its peak.

    Args:
        device (chainer.backend.Device): The GPU.
        function (callable): It is called once.

    Returns:
        int: Bytes.
    """
    with chainer.using_device(device):
        pool = cuda.cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        function()
        return pool.total_bytes() - before


@contextlib.contextmanager
def enough_memory(device, *advice):
    """Whoever runs out of memory within it says so in one line.

    Args:
        device (chainer.backend.Device): Where the arrays are.
        *advice (str): What the user can do other than free some, or use the CPU: `'lower --batch-size'`.

    Raises:
        InputError: There was not enough.
    """
    try:
        yield
    except MemoryError as e:                            # CuPy's own is one, too
        on_gpu = device.xp is cuda.cupy
        where, elsewhere = (f'-g {device.device.id}: ', ['leave out -g']) if on_gpu else ('', [])
        raise InputError(f'{where}{str(e).rstrip(".") or "out of memory"}; '
                         + ' or '.join(['free some', *advice, *elsewhere])) from e
