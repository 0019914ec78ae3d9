"""The memory of devices: how much there is, how much is taken, and where an array's numbers are."""
import os
import threading

import numpy as np

from ._device import DEVICES, Device, current

# Bytes that each device has.
MEMORY = int(os.environ.get('STANDIN_MEMORY', str(4 * 2 ** 30)))
# What is given out is a multiple of this many bytes, as in CuPy's pool.
_UNIT = 512


class OutOfMemoryError(MemoryError):
    """A device has too little memory left."""

    def __init__(self, size, total, limit=0):
        told = f', limit set to: {limit:,} bytes' if limit else ''
        super().__init__(f'Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{told}).')


class _Pool:
    # Of one device. It never needs more than what is in use at a time: whatever is free can be used again, where
    # CuPy's blocks might not fit.

    def __init__(self):
        self.used = self.held = self.limit = 0
        self.lock = threading.RLock()                       # a collector may free arrays within `take`
        self.set_limit(*_limit_from_environment())

    def set_limit(self, size=None, fraction=None):
        self.limit = int(size or 0) if fraction is None else int(fraction * MEMORY)

    def take(self, size):
        size = -(-size // _UNIT) * _UNIT
        with self.lock:
            if self.used + size > (min(self.limit, MEMORY) if self.limit else MEMORY):
                raise OutOfMemoryError(size, self.used, self.limit)
            self.used += size
            self.held = max(self.held, self.used)
        return size

    def give(self, size):
        with self.lock:
            self.used -= size

    def memory_info(self):
        return MEMORY - self.held, MEMORY


def _limit_from_environment():
    told = os.environ.get('CUPY_GPU_MEMORY_LIMIT', '')
    return (None, float(told[:-1]) / 100) if told.endswith('%') else (int(told or 0), None)


_pools = [_Pool() for _ in range(DEVICES)]


def pool_of(number):
    return _pools[number]


class MemoryPool:
    """CuPy's default memory pool: what it says is about the current device."""

    def used_bytes(self):
        return pool_of(current()).used

    def total_bytes(self):
        return pool_of(current()).held

    def free_bytes(self):
        return self.total_bytes() - self.used_bytes()

    def free_all_blocks(self, stream=None):
        pool = pool_of(current())
        pool.held = pool.used

    def set_limit(self, size=None, fraction=None):
        pool_of(current()).set_limit(size, fraction)

    def get_limit(self):
        return pool_of(current()).limit


class Memory:
    """A block of the current device's memory; given back with its last reference.

    Args:
        size (int): In bytes.
        content (numpy.ndarray or None): What is in it, (size,) uint8; None for what memory holds before it is
            written, which read as floats is NaN.
    """

    def __init__(self, size, content=None):
        self.device = Device()
        self._pool = pool_of(self.device.id)
        self._size = 0                                      # for __del__, if there is no such memory
        self._size = self._pool.take(size)
        self.bytes = np.full(size, 0xff, np.uint8) if content is None else content

    def __del__(self):
        self._pool.give(self._size)


class MemoryPointer:
    """A place in a block of memory."""

    def __init__(self, memory, offset):
        self.mem, self._offset = memory, offset
        self.device, self.device_id = memory.device, memory.device.id

    @property
    def ptr(self):
        return self.mem.bytes.ctypes.data + self._offset

    def __int__(self):
        return self.ptr

    def __add__(self, offset):
        return MemoryPointer(self.mem, self._offset + offset)

    def bytes(self, size):
        """The bytes from here on, to be read and written."""
        if self._offset + size > self.mem.bytes.size:
            raise IndexError(f'{size} bytes from {self._offset} on pass the end of a block of {self.mem.bytes.size}')
        return self.mem.bytes[self._offset:self._offset + size]

    def copy_from_device(self, source, size):
        self.bytes(size)[...] = source.bytes(size)

    def copy_from_device_async(self, source, size, stream=None):
        self.copy_from_device(source, size)
