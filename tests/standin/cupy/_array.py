"""ndarray: a NumPy array that pretends to be on a device, and does nothing that CuPy's would not."""
import numbers

import numpy as np

from ._device import launch
from ._memory import Memory, MemoryPointer
from .standin import RaceError, synchronize, upload

# What memory that has not been written is filled with, by the kind of dtype: NaN, an impossible index, True.
_UNWRITTEN = {'f': 0xff, 'c': 0xff, 'i': 0x80, 'u': 0xf0, 'b': 1}


# A device does not warn of what overflows or is no number.
quiet = np.errstate(all='ignore')


class Flags:
    """How an array lies in memory."""

    def __init__(self, a):
        self.c_contiguous, self.f_contiguous = a.flags.c_contiguous, a.flags.f_contiguous
        self.owndata = a.base is None


class ndarray:
    """An array on a device. `_a` has its numbers, `_memory` the block of device memory that they are in."""

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order='C'):
        dtype = checked_dtype(dtype)
        if strides is not None or order != 'C':
            raise NotImplementedError('the stand-in makes arrays in C order')
        size = int(np.prod(shape)) * dtype.itemsize
        if memptr is None:
            memptr = MemoryPointer(Memory(size, np.full(size, _UNWRITTEN[dtype.kind], np.uint8)), 0)
        self._memory = memptr.mem
        self._a = memptr.bytes(size).view(dtype).reshape(shape)

    # ---- What it is

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    strides = property(lambda self: self._a.strides)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    flags = property(lambda self: Flags(self._a))
    device = property(lambda self: self._memory.device)
    T = property(lambda self: self.transpose())

    @property
    def data(self):
        start = self._memory.bytes.__array_interface__['data'][0]
        return MemoryPointer(self._memory, self._a.__array_interface__['data'][0] - start)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    # ---- To the host, which waits for it

    def get(self, stream=None, order='C', out=None, blocking=True):
        synchronize('ndarray.get')
        if out is None:
            return np.array(self._a, order=order)
        if out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError('out must have the shape and dtype of the array')
        out[...] = self._a
        return out

    def _to_host(self, what):
        synchronize(what)
        return self._a

    def item(self, *args):
        return self._to_host('ndarray.item').item(*args)

    def tolist(self):
        return self._to_host('ndarray.tolist').tolist()

    def __float__(self):
        return float(self._to_host('float').item())

    def __int__(self):
        return int(self._to_host('int').item())

    def __bool__(self):
        return bool(self._to_host('bool'))

    def __repr__(self):
        return repr(self._to_host('repr'))

    def __str__(self):
        return str(self._to_host('str'))

    def __reduce__(self):
        from ._routines import asarray
        return asarray, (self.get(),)

    def __deepcopy__(self, memo):
        return self.copy()

    def __array__(self, dtype=None, copy=None):
        raise TypeError('Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy '
                        'array explicitly.')

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        # NumPy's functions, and operators whose left side is a NumPy scalar, become this library's own.
        from . import _routines
        own = getattr(_routines, ufunc.__name__, None)
        return NotImplemented if method != '__call__' or own is None else own(*inputs, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        from . import _routines
        own = getattr(_routines, function.__name__, None)
        return NotImplemented if own is None else own(*args, **kwargs)

    # ---- From the host

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError('Only numpy.ndarray can be set to cupy.ndarray')
        if self.dtype != arr.dtype:
            raise TypeError(f'{arr.dtype} array cannot be set to {self.dtype} array')
        if self.shape != arr.shape:
            raise ValueError(f'Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}')
        upload('ndarray.set')
        self._a[...] = arr

    @quiet
    def fill(self, value):
        if isinstance(value, np.ndarray):
            if value.shape != ():
                raise ValueError('non-scalar numpy.ndarray cannot be used for fill')
            value = value.item()
        launch('fill', self, *checked(value))
        self._a.fill(bare(value))

    # ---- Elements

    def __getitem__(self, key):
        index, arrays = _index(self, key)
        if not arrays:
            # A view also where a single number is left.
            return view(self, self._a[index if [part for part in index if part is Ellipsis] else (*index, ...)])
        launch('getitem', self, *arrays, times=_launches(arrays))
        return own(np.asarray(self._a[index]))

    @quiet
    def __setitem__(self, key, value):
        from ._routines import asarray
        index, arrays = _index(self, key)
        if not isinstance(value, ndarray):
            if not arrays:
                self[key].fill(value)
                return
            value = asarray(value, self.dtype)              # a number goes to the device, too
        launch('setitem', self, value, *arrays, times=_launches(arrays))
        if arrays and value.size > 1:
            places = np.arange(self.size).reshape(self.shape)[index]
            if np.unique(places).size < places.size:
                raise RaceError('setitem: two values for one place; which of them stays is not defined')
        self._a[index] = value._a

    # ---- Shape

    def reshape(self, *shape, order='C'):
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], numbers.Integral) else shape
        reshaped = self._a.reshape(shape, order=order)
        if np.may_share_memory(reshaped, self._a):
            return view(self, reshaped)
        launch('copy', self)
        return own(reshaped)

    def ravel(self, order='C'):
        return self.reshape(-1, order=order)

    def flatten(self, order='C'):
        return self.copy().reshape(-1, order=order)

    def transpose(self, *axes):
        return view(self, self._a.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return view(self, self._a.swapaxes(axis1, axis2))

    def squeeze(self, axis=None):
        return view(self, self._a.squeeze(axis))

    def view(self, dtype=None):
        return view(self, self._a.view() if dtype is None else self._a.view(checked_dtype(dtype)))

    def reduced_view(self, dtype=None):
        return self.view(dtype)                             # of fewer dimensions in CuPy, with the same places

    # ---- Copies

    def copy(self, order='C'):
        # From another device too: to the current one.
        launch('copy')
        return own(self._a.copy(order))

    @quiet
    def astype(self, dtype, order='K', casting=None, subok=None, copy=True):
        dtype = checked_dtype(dtype)
        if casting is not None and not np.can_cast(self.dtype, dtype, casting):
            raise TypeError(f'Cannot cast array data from {self.dtype} to {dtype} according to the rule {casting!r}')
        if not copy and dtype == self.dtype and order == 'K':
            return self
        launch('astype', self)
        return own(self._a.astype(dtype, order))

    def take(self, indices, axis=None, out=None):
        from ._routines import take
        return take(self, indices, axis, out)

    def nonzero(self):
        synchronize('ndarray.nonzero')
        launch('nonzero', self, times=2)
        return tuple(own(a) for a in self._a.nonzero())


def checked_dtype(dtype):
    """A dtype that CuPy has."""
    dtype = np.dtype(dtype)
    if dtype.kind not in _UNWRITTEN or dtype.itemsize > 16 or dtype == np.longdouble:
        raise ValueError(f'Unsupported dtype {dtype}')
    return dtype


def checked(*args):
    """Refuses what CuPy's functions do not take beside arrays; gives the arrays."""
    for arg in args:
        if not isinstance(arg, (ndarray, numbers.Number, np.bool_)):
            raise TypeError(f'Unsupported type {type(arg)}')
    return [arg for arg in args if isinstance(arg, ndarray)]


def bare(value):
    """The NumPy array of a device array; anything else as it is."""
    return value._a if isinstance(value, ndarray) else value


def view(array, a):
    """A device array that is a part of another one."""
    made = ndarray.__new__(ndarray)
    made._memory, made._a = array._memory, a
    return made


def own(a):
    """A new array of the current device from a NumPy array with no other owner."""
    a = np.asarray(a)
    checked_dtype(a.dtype)
    if not np.may_share_memory(a, a.ravel('K')):            # with gaps between its numbers
        a = a.copy()
    made = ndarray.__new__(ndarray)
    made._memory, made._a = Memory(a.nbytes, a.ravel('K').view(np.uint8)), a
    return made


def empty(shape, dtype=float, order='C'):
    """An array not written yet: NaN, impossible indices."""
    if order != 'C':
        raise NotImplementedError('the stand-in makes arrays in C order')
    return ndarray(shape, dtype)


def _launches(arrays):
    # Several index arrays are put together first, each by a kernel.
    return len(arrays) + 1 if len(arrays) > 1 else 1


def _index(array, key):
    # The index as NumPy takes it, and the arrays in it. Unlike CuPy, which wraps around, what is outside of
    # the array is refused (by NumPy).
    from ._routines import asarray
    index, arrays = [], []
    for given in key if isinstance(key, tuple) else (key,):
        part = asarray(given) if isinstance(given, (list, np.ndarray)) else given
        if isinstance(part, ndarray):
            if part.dtype.kind not in 'biu':
                raise IndexError(f'arrays used as indices must be of integer or boolean type. (actual: {part.dtype})')
            if part.dtype.kind == 'b':
                synchronize('a mask as an index')
            arrays.append(part)
        elif not (part is None or part is Ellipsis or isinstance(part, (slice, numbers.Integral))):
            raise IndexError('only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or '
                             'boolean arrays are valid indices')
        index.append(bare(part))
    return tuple(index), arrays
