"""Devices, their memory, and what is counted: launches, uploads, and the moments when the host waits."""
import collections
import contextlib
import functools
import os
import threading

import numpy as np

DEVICES = int(os.environ.get('STANDIN_DEVICES', '1'))
# Bytes that each device has.
MEMORY = int(os.environ.get('STANDIN_MEMORY', str(4 * 2 ** 30)))
# What is given out is a multiple of this many bytes, as CuPy's pool has it.
_UNIT = 512

_thread = threading.local()


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""


class OutOfMemoryError(MemoryError):
    """A device has too little memory left."""

    def __init__(self, size, total, limit=0):
        told = f', limit set to: {limit:,} bytes' if limit else ''
        super().__init__(f'Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{told}).')


class SynchronizedError(RuntimeError):
    """The host waits for a device within `no_sync`."""


class RaceError(RuntimeError):
    """What a kernel leaves depends on which of its elements comes first."""


# ---- What is counted

class Counts:
    """What has happened: `launches` (a Counter by name), `uploads` and `synchronizations` (lists of what did it)."""

    def __init__(self):
        self.launches = collections.Counter()
        self.uploads = []
        self.synchronizations = []


_counting = []


@contextlib.contextmanager
def counted():
    """Counts what happens within it, in any thread.

    Yields:
        Counts: Goes up as things happen.
    """
    counts = Counts()
    _counting.append(counts)
    try:
        yield counts
    finally:
        _counting.remove(counts)


@contextlib.contextmanager
def no_sync():
    """Within it this thread must not wait for a device: SynchronizedError."""
    before = getattr(_thread, 'forbidden', False)
    _thread.forbidden = True
    try:
        yield
    finally:
        _thread.forbidden = before


def synchronize(what):
    """Called where the host waits for a device."""
    for counts in _counting:
        counts.synchronizations.append(what)
    if getattr(_thread, 'forbidden', False):
        raise SynchronizedError(f'{what} makes the host wait for the device')


def upload(what):
    """Called where an array goes from the host to a device."""
    for counts in _counting:
        counts.uploads.append(what)


def launch(name, *arrays, times=1):
    """Called for each kernel: counts it, and checks that all arrays are on the current device."""
    for array in arrays:
        if array.device.id != current():
            raise ValueError(f'Array device must be same as the current device: array device = {array.device.id} '
                             f'while current = {current()} (in {name}).')
    for counts in _counting:
        counts.launches[name] += times


# ---- Devices

def current():
    """The number of this thread's device."""
    return getattr(_thread, 'device', 0)


def use(number):
    if not 0 <= number < DEVICES:
        raise CUDARuntimeError('cudaErrorInvalidDevice: invalid device ordinal')
    _thread.device = number


class Device:
    """A device; as a context manager it makes it the current one of this thread."""

    def __init__(self, device=None):
        self.id = current() if device is None else int(device)
        self._before = []

    def __int__(self):
        return self.id

    def __enter__(self):
        before = current()
        use(self.id)
        self._before.append(before)
        return self

    def __exit__(self, *_):
        use(self._before.pop())

    def use(self):
        use(self.id)

    def synchronize(self):
        synchronize('Device.synchronize')

    @property
    def mem_info(self):
        return pool_of(self.id).memory_info()

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f'<CUDA Device {self.id}>'


class Stream:
    """A queue of work. There is one; it is always empty."""

    ptr = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        synchronize('Stream.synchronize')


Stream.null = Stream()


class Event:
    """A mark in a queue; the queue is empty, so it has been passed."""

    def record(self, stream=None):
        pass

    def synchronize(self):
        synchronize('Event.synchronize')


# ---- Memory

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
    """A block of the current device's memory; given back when nobody refers to it any more.

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


def memoize(for_each_device=False):
    """A decorator: a function's result is kept for each of its arguments and, where wanted, for each device."""
    def decorate(function):
        kept = functools.cache(lambda device, args, kwargs: function(*args, **dict(kwargs)))
        _memos.append(kept)

        @functools.wraps(function)
        def call(*args, **kwargs):
            return kept(current() if for_each_device else None, args, tuple(sorted(kwargs.items())))
        return call
    return decorate


_memos = []


def clear_memo():
    for kept in _memos:
        kept.cache_clear()
