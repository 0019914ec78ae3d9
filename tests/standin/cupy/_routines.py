"""CuPy's functions, as many as the package and Chainer use; a name that is not here is an AttributeError."""
import numpy as np

from ._array import bare, checked, checked_dtype, empty, ndarray, own, quiet, view
from ._device import launch
from .standin import RaceError, upload

_COMPARISONS = ('equal', 'not_equal', 'less', 'less_equal', 'greater', 'greater_equal')
_UFUNCS = ('add', 'subtract', 'multiply', 'divide', 'true_divide', 'floor_divide', 'remainder', 'power', 'negative',
           'absolute', 'invert', 'bitwise_and', 'bitwise_or', 'bitwise_xor', 'logical_and', 'logical_or',
           'logical_not', 'left_shift', 'right_shift', 'maximum', 'minimum', 'exp', 'log', 'log1p', 'expm1', 'sqrt',
           'square', 'tanh', 'floor', 'ceil', 'rint', 'sign', 'isnan', 'isfinite', 'isinf', 'reciprocal', *_COMPARISONS)

_REDUCTIONS = ('sum', 'prod', 'mean', 'max', 'min', 'any', 'all', 'argmax', 'argmin')

# What the module cupy has.
PUBLIC = (*_UFUNCS, *_REDUCTIONS, 'abs', 'amax', 'amin', 'arange', 'array', 'asarray', 'ascontiguousarray', 'asnumpy',
          'broadcast_to', 'clip', 'concatenate', 'copyto', 'cumsum', 'dot', 'empty_like', 'expand_dims', 'full',
          'full_like', 'matmul', 'ones', 'ones_like', 'ravel', 'reshape', 'rollaxis', 'sort', 'split', 'squeeze',
          'take', 'take_along_axis', 'tensordot', 'transpose', 'where', 'zeros', 'zeros_like')


def _ufunc(name):
    function = getattr(np, name)

    @quiet
    def call(*args, out=None, dtype=None, casting='same_kind'):
        if len(args) == function.nin + 1 and out is None:
            *args, out = args
        if len(args) != function.nin:
            raise TypeError(f'Wrong number of arguments for {name}')
        out = out[0] if isinstance(out, tuple) else out
        arrays = checked(*args)
        if out is not None:
            if not isinstance(out, ndarray):
                raise TypeError('Output arguments type must be cupy.ndarray')
            if out.shape != np.broadcast_shapes(*(a.shape for a in arrays)):
                raise ValueError('Out shape is mismatched')
            arrays.append(out)
        launch(name, *arrays)
        # Python's own numbers take the arrays' type, NumPy's keep theirs: the same rule in both libraries.
        if out is None:
            return own(function(*map(bare, args), dtype=dtype))
        function(*map(bare, args), out=out._a, dtype=dtype, casting=casting)
        return out
    call.__name__ = name
    return call


globals().update({name: _ufunc(name) for name in _UFUNCS})
abs = globals()['absolute']


@quiet
def rsqrt(x, *, dtype=None):
    checked(x)
    launch('rsqrt', x)
    return own(np.reciprocal(np.sqrt(x._a, dtype=dtype)))


# ---- Reductions

def _reduction(name):
    function = getattr(np, name)

    @quiet
    def call(a, axis=None, out=None, dtype=None, keepdims=False):
        if not isinstance(a, ndarray):
            raise TypeError(f'Unsupported type {type(a)}')
        launch(name, a, *checked(*([] if out is None else [out])))
        options = {} if dtype is None or name.startswith('arg') else {'dtype': dtype}
        result = np.asarray(function(a._a, axis=axis, keepdims=keepdims, **options))
        if out is None:
            return own(result if dtype is None else result.astype(dtype, copy=False))
        if out.shape != result.shape:
            raise ValueError('Out shape is mismatched')
        out._a[...] = result
        return out

    # As CuPy orders them.
    if name in ('sum', 'prod', 'mean', 'argmax', 'argmin'):
        return lambda a, axis=None, dtype=None, out=None, keepdims=False: call(a, axis, out, dtype, keepdims)
    return lambda a, axis=None, out=None, keepdims=False: call(a, axis, out, None, keepdims)


globals().update({name: _reduction(name) for name in _REDUCTIONS})
amax, amin = globals()['max'], globals()['min']


@quiet
def cumsum(a, axis=None, dtype=None, out=None):
    if not isinstance(a, ndarray):
        raise TypeError(f'Unsupported type {type(a)}')
    if out is not None:
        raise NotImplementedError('the stand-in adds up into a new array')
    launch('cumsum', a, times=2)
    return own(np.cumsum(a._a, axis, dtype))


def sort(a, axis=-1):
    if not isinstance(a, ndarray):
        raise TypeError(f'Unsupported type {type(a)}')
    launch('sort', a, times=2)
    return own(np.sort(a._a, axis))


# ---- Products

@quiet
def dot(a, b, out=None):
    """The product of two matrices or vectors; `out` must be as the result would be, in C order."""
    for factor in (a, b):
        if not isinstance(factor, ndarray):
            raise TypeError(f'Unsupported type {type(factor)}')
    if out is not None:
        if np.result_type(a.dtype, b.dtype) != out.dtype:
            raise ValueError('Not supported dtype combination.')
        if not out.flags.c_contiguous:
            raise ValueError('Output array must be C-contiguous')
        if np.shares_memory(out._a, a._a) or np.shares_memory(out._a, b._a):
            raise RaceError('dot: the product is written where a factor is read')
    launch('dot', a, b, *([out] if out is not None else []))
    result = np.dot(a._a, b._a)
    if out is None:
        return own(result)
    if out.size != result.size:
        raise ValueError('Output array has an invalid size')
    out._a[...] = result.reshape(out.shape)
    return out


@quiet
def matmul(a, b, out=None):
    checked(a, b)
    launch('matmul', a, b, *([out] if out is not None else []))
    result = np.matmul(a._a, b._a)
    if out is None:
        return own(result)
    out._a[...] = result
    return out


@quiet
def tensordot(a, b, axes=2):
    checked(a, b)
    launch('tensordot', a, b)
    return own(np.tensordot(a._a, b._a, axes))


# ---- Arrays from nothing, and from the host

def zeros(shape, dtype=float, order='C'):
    return full(shape, 0, dtype)


def ones(shape, dtype=float, order='C'):
    return full(shape, 1, dtype)


def full(shape, fill_value, dtype=None, order='C'):
    if dtype is None:
        dtype = fill_value.dtype if hasattr(fill_value, 'dtype') else np.array(fill_value).dtype
    made = empty(shape, dtype, order)
    made.fill(fill_value)
    return made


def empty_like(prototype, dtype=None, order='K', subok=None, shape=None):
    checked(prototype)
    return empty(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def zeros_like(a, dtype=None, order='K', subok=None, shape=None):
    made = empty_like(a, dtype, order, subok, shape)
    made.fill(0)
    return made


def ones_like(a, dtype=None, order='K', subok=None, shape=None):
    made = empty_like(a, dtype, order, subok, shape)
    made.fill(1)
    return made


def full_like(a, fill_value, dtype=None, order='K', subok=None, shape=None):
    made = empty_like(a, dtype, order, subok, shape)
    made.fill(fill_value)
    return made


def arange(start, stop=None, step=1, dtype=None):
    launch('arange')
    return own(np.arange(0 if stop is None else start, start if stop is None else stop, step, dtype=dtype))


def array(obj, dtype=None, copy=True, order='K', subok=False, ndmin=0):
    if isinstance(obj, ndarray):
        wanted = obj.dtype if dtype is None else checked_dtype(dtype)
        if not copy and wanted == obj.dtype and (order != 'C' or obj.flags.c_contiguous):
            return obj
        made = obj.copy(order)
        return made if wanted == made.dtype else made.astype(wanted)
    made = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)
    checked_dtype(made.dtype)
    upload(f'array {made.shape}')
    return own(made)


def asarray(a, dtype=None, order=None):
    return array(a, dtype, copy=False, order=order or 'K')


def ascontiguousarray(a, dtype=None):
    return array(a, dtype, copy=False, order='C')


def asnumpy(a, stream=None, order='C', out=None, *, blocking=True):
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a, order=order)


# ---- Shapes and choices

def reshape(a, newshape, order='C'):
    return a.reshape(newshape, order=order)


def ravel(a, order='C'):
    return a.ravel(order)


def transpose(a, axes=None):
    return view(a, a._a.transpose(axes))


def rollaxis(a, axis, start=0):
    return view(a, np.rollaxis(a._a, axis, start))


def expand_dims(a, axis):
    return view(a, np.expand_dims(a._a, axis))


def squeeze(a, axis=None):
    return a.squeeze(axis)


def broadcast_to(array, shape):
    return view(array, np.broadcast_to(array._a, shape))


def split(ary, indices_or_sections, axis=0):
    return [view(ary, a) for a in np.split(ary._a, bare(indices_or_sections), axis)]


def concatenate(tup, axis=0, out=None, *, dtype=None, casting='same_kind'):
    arrays = list(tup)
    for a in arrays:
        if not isinstance(a, ndarray):
            raise TypeError(f'Only cupy arrays can be concatenated, not {type(a)}')
    if out is not None or dtype is not None:
        raise NotImplementedError('the stand-in concatenates into a new array of the same dtype')
    launch('concatenate', *arrays, times=len(arrays))
    return own(np.concatenate([a._a for a in arrays], axis))


def where(condition, x, y):
    arrays = checked(condition, x, y)
    launch('where', *arrays)
    return own(np.where(*map(bare, (condition, x, y))))


def take(a, indices, axis=None, out=None):
    if out is not None:
        raise NotImplementedError('the stand-in takes into a new array')
    indices = asarray(indices)
    launch('take', a, indices)
    return own(np.asarray(np.take(a._a, indices._a, axis)))     # outside of the array: NumPy refuses it


def take_along_axis(a, indices, axis):
    checked(a, indices)
    launch('take_along_axis', a, indices, times=3)
    return own(np.take_along_axis(a._a, indices._a, axis))


def clip(a, a_min, a_max, out=None):
    arrays = checked(*(arg for arg in (a, a_min, a_max, out) if arg is not None))
    launch('clip', *arrays)
    clipped = np.clip(*map(bare, (a, a_min, a_max)))
    if out is None:
        return own(clipped)
    out._a[...] = clipped
    return out


def copyto(dst, src, casting='same_kind', where=None):
    if where is not None:
        raise NotImplementedError('the stand-in copies whole arrays')
    if isinstance(src, ndarray) and not np.can_cast(src.dtype, dst.dtype, casting):
        raise TypeError(f'Cannot cast {src.dtype} to {dst.dtype} in {casting} casting mode')
    dst[...] = src


# ---- Methods of arrays that are functions above

for _name in (*_REDUCTIONS, 'cumsum', 'dot', 'clip'):
    setattr(ndarray, _name, globals()[_name])

_OPERATORS = {'add': 'add', 'sub': 'subtract', 'mul': 'multiply', 'truediv': 'true_divide',
              'floordiv': 'floor_divide', 'mod': 'remainder', 'pow': 'power', 'and': 'bitwise_and', 'or': 'bitwise_or',
              'xor': 'bitwise_xor', 'lshift': 'left_shift', 'rshift': 'right_shift'}


def _operator(function, turned=False):
    def operate(self, other):
        # Whoever outranks arrays, as Chainer's variables do, does it.
        if getattr(other, '__array_priority__', 0) > 100 and not isinstance(other, ndarray):
            return NotImplemented
        return function(other, self) if turned else function(self, other)
    return operate


def _in_place(function):
    return lambda self, other: function(self, other, out=self)


for _name, _function in _OPERATORS.items():
    _function = globals()[_function]
    setattr(ndarray, f'__{_name}__', _operator(_function))
    setattr(ndarray, f'__r{_name}__', _operator(_function, turned=True))
    setattr(ndarray, f'__i{_name}__', _in_place(_function))
for _name, _function in zip(('eq', 'ne', 'lt', 'le', 'gt', 'ge'), _COMPARISONS, strict=True):
    setattr(ndarray, f'__{_name}__', _operator(globals()[_function]))
for _name, _function in {'neg': 'negative', 'abs': 'absolute', 'invert': 'invert'}.items():
    setattr(ndarray, f'__{_name}__', globals()[_function])
ndarray.__matmul__ = _operator(matmul)
ndarray.__hash__ = None
