"""A stand-in for CuPy that runs on a CPU, for tests of code that has no GPU to run on; see ../README.md."""
import numpy as _numpy
from numpy import (  # noqa: F401 (CuPy has them too)
    bool_,
    dtype,
    e,
    float16,
    float32,
    float64,
    inf,
    int8,
    int16,
    int32,
    int64,
    nan,
    newaxis,
    pi,
    result_type,
    uint8,
    uint16,
    uint32,
    uint64,
)

from . import _routines, cuda
from ._array import empty, ndarray
from ._device import MemoryPool, clear_memo, counted, memoize, no_sync
from ._kernel import ElementwiseKernel, RawKernel, ReductionKernel

__version__ = '14.2.0'
#: Whether this is the stand-in and not CuPy.
is_standin = True

globals().update({name: value for name, value in vars(_routines).items()
                  if not name.startswith('_') and callable(value) and getattr(_numpy, name, value) is not value})
asnumpy, get_array_module = _routines.asnumpy, _routines.get_array_module

_pool = MemoryPool()


def get_default_memory_pool():
    return _pool


class _PinnedMemoryPool:
    def free_all_blocks(self):
        pass


def get_default_pinned_memory_pool():
    return _PinnedMemoryPool()


def fuse(*args, **kwargs):
    def decorate(function):
        def call(*_, **__):
            raise NotImplementedError('the stand-in has no fuse')
        return call
    return decorate(args[0]) if args else decorate
