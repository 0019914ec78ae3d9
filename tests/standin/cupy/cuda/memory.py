from .._memory import Memory, MemoryPointer, MemoryPool, OutOfMemoryError

__all__ = ['Memory', 'MemoryPointer', 'MemoryPool', 'OutOfMemoryError']
