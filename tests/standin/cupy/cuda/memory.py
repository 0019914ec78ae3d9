from .._device import Memory, MemoryPointer, MemoryPool, OutOfMemoryError  # noqa: F401
