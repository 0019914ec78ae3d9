"""Devices, streams and memory. There is no cuDNN, as there is none in CuPy 14."""
from .._device import Device, Event, Stream
from .._memory import Memory, MemoryPointer, MemoryPool
from . import cublas, memory, runtime

__all__ = ['Device', 'Event', 'Memory', 'MemoryPointer', 'MemoryPool', 'Stream', 'alloc', 'cublas',
           'get_current_stream', 'is_available', 'memory', 'runtime']


def is_available():
    return runtime.getDeviceCount() > 0


def alloc(size):
    return MemoryPointer(Memory(size), 0)


def get_current_stream():
    return Stream.null
