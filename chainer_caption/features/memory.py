"""Memory that large arrays and images had is given back to the system as soon as they are gone."""
import contextlib
import ctypes
import functools

_M_MMAP_THRESHOLD = -3                                  # from glibc's malloc.h
_LARGE = 4 * 2 ** 20


@functools.lru_cache(maxsize=1)
def return_large_blocks():
    """Tells the C library so, for the whole process; does nothing where that library is not glibc.

    glibc asks the system for large blocks of their own, but learns from the first that are given back, and keeps
    blocks of up to 32 MiB thereafter. Those of decoded images, of all sizes and from several threads, then leave
    holes of 100 MiB and more that nothing else fits into.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):       # another C library; Windows
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
