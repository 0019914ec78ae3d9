"""Devices, streams and memory. There is no cuDNN, as there is none in CuPy 14."""
from .._device import (  # noqa: F401
    Device,
    Event,
    Memory,
    MemoryPointer,
    MemoryPool,
    Stream,
    synchronize,
)
from . import cublas, memory, runtime  # noqa: F401


def is_available():
    return runtime.getDeviceCount() > 0


def alloc(size):
    return MemoryPointer(Memory(size), 0)


def get_current_stream():
    return Stream.null
