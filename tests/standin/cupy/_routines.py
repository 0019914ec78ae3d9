"""CuPy's functions, as many as the package and Chainer use; a name that is not here is an AttributeError."""
import numpy as np

from ._array import bare, checked, checked_dtype, empty, ndarray, own, view
from ._device import launch, upload

_COMPARISONS = ('equal', 'not_equal', 'less', 'less_equal', 'greater', 'greater_equal')
_UFUNCS = ('add', 'subtract', 'multiply', 'divide', 'true_divide', 'floor_divide', 'remainder', 'power', 'negative',
           'absolute', 'invert', 'bitwise_and', 'bitwise_or', 'bitwise_xor', 'logical_and', 'logical_or',
           'logical_not', 'left_shift', 'right_shift', 'maximum', 'minimum', 'exp', 'log', 'log1p', 'expm1', 'sqrt',
           'square', 'tanh', 'floor', 'ceil', 'rint', 'sign', 'isnan', 'isfinite', 'isinf', 'reciprocal', *_COMPARISONS)


def _ufunc(name):
    function = getattr(np, name)

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
        with np.errstate(all='ignore'):
            if out is None:
                return own(function(*map(bare, args), dtype=dtype))
            function(*map(bare, args), out=out._a, dtype=dtype, casting=casting)
            return out
    call.__name__ = name
    return call


for _name in _UFUNCS:
    globals()[_name] = _ufunc(_name)
abs = absolute = globals()['absolute']                      # noqa: A001 (CuPy's name)


def rsqrt(x, *, dtype=None):
    checked(x)
    launch('rsqrt', x)
    with np.errstate(all='ignore'):
        return own(np.reciprocal(np.sqrt(x._a, dtype=dtype)))


# ---- Reductions

def _reduction(name):
    function = getattr(np, name)
    typed = name in ('sum', 'prod', 'mean', 'argmax', 'argmin')

    def call(a, axis=None, dtype=None, out=None, keepdims=False):
        if not isinstance(a, ndarray):
            raise TypeError(f'Unsupported type {type(a)}')
        if dtype is not None and not typed:
            raise TypeError(f'{name}() has no dtype')
        launch(name, a, *([out] if out is not None else []))
        options = {'dtype': dtype} if dtype is not None and name not in ('argmax', 'argmin') else {}
        with np.errstate(all='ignore'):
            result = np.asarray(function(a._a, axis=axis, keepdims=keepdims, **options))
        if name in ('argmax', 'argmin') and dtype is not None:
            result = result.astype(dtype)
        if out is None:
            return own(result)
        if out.shape != result.shape:
            raise ValueError('Out shape is mismatched')
        out._a[...] = result
        return out
    return call


sum, prod, mean, var = (_reduction(name) for name in ('sum', 'prod', 'mean', 'var'))    # noqa: A001
argmax, argmin = _reduction('argmax'), _reduction('argmin')
_max, _min, _any, _all = (_reduction(name) for name in ('max', 'min', 'any', 'all'))


def max(a, axis=None, out=None, keepdims=False):            # noqa: A001
    return _max(a, axis, None, out, keepdims)


def min(a, axis=None, out=None, keepdims=False):            # noqa: A001
    return _min(a, axis, None, out, keepdims)


def any(a, axis=None, out=None, keepdims=False):            # noqa: A001
    return _any(a, axis, None, out, keepdims)


def all(a, axis=None, out=None, keepdims=False):            # noqa: A001
    return _all(a, axis, None, out, keepdims)


amax, amin = max, min


# ---- Products

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
    launch('dot', a, b, *([out] if out is not None else []))
    result = np.dot(a._a, b._a)
    if out is None:
        return own(result)
    if out.size != result.size:
        raise ValueError('Output array has an invalid size')
    out._a[...] = result.reshape(out.shape)
    return out


def matmul(a, b, out=None):
    checked(a, b)
    launch('matmul', a, b, *([out] if out is not None else []))
    result = np.matmul(a._a, b._a)
    if out is None:
        return own(result)
    out._a[...] = result
    return out


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


def array(object, dtype=None, copy=True, order='K', subok=False, ndmin=0):     # noqa: A002 (CuPy's name)
    if isinstance(object, ndarray):
        wanted = object.dtype if dtype is None else checked_dtype(dtype)
        if not copy and wanted == object.dtype and (order != 'C' or object.flags.c_contiguous):
            return object
        made = object.copy(order)
        return made if wanted == made.dtype else made.astype(wanted)
    made = np.array(object, dtype=dtype, order=order, ndmin=ndmin)
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
    return minimum(maximum(a, a_min), a_max, out=out)       # noqa: F821 (made above)


def copyto(dst, src, casting='same_kind', where=None):
    if where is not None:
        raise NotImplementedError('the stand-in copies whole arrays')
    if isinstance(src, ndarray) and not np.can_cast(src.dtype, dst.dtype, casting):
        raise TypeError(f'Cannot cast {src.dtype} to {dst.dtype} in {casting} casting mode')
    dst[...] = src


def get_array_module(*args):
    import cupy
    return cupy if _any_array(args) else np


def _any_array(args):
    return next((True for arg in args if isinstance(arg, ndarray)), False)


# ---- Methods of arrays that are functions above

def _method(name):
    return lambda self, *args, **kwargs: globals()[name](self, *args, **kwargs)


for _name in ('sum', 'prod', 'mean', 'var', 'max', 'min', 'any', 'all', 'argmax', 'argmin', 'dot', 'clip'):
    setattr(ndarray, _name, _method(_name))

_OPERATORS = {'add': 'add', 'sub': 'subtract', 'mul': 'multiply', 'truediv': 'true_divide',
              'floordiv': 'floor_divide', 'mod': 'remainder', 'pow': 'power', 'and': 'bitwise_and', 'or': 'bitwise_or',
              'xor': 'bitwise_xor', 'lshift': 'left_shift', 'rshift': 'right_shift'}


def _operators(name):
    function = globals()[name]
    return (lambda self, other: function(self, other), lambda self, other: function(other, self),
            lambda self, other: function(self, other, out=self))


for _operator, _name in _OPERATORS.items():
    for _prefix, _function in zip(('', 'r', 'i'), _operators(_name), strict=True):
        setattr(ndarray, f'__{_prefix}{_operator}__', _function)
for _operator, _name in zip(('eq', 'ne', 'lt', 'le', 'gt', 'ge'), _COMPARISONS, strict=True):
    setattr(ndarray, f'__{_operator}__', _operators(_name)[0])
for _operator, _name in {'neg': 'negative', 'abs': 'absolute', 'invert': 'invert'}.items():
    setattr(ndarray, f'__{_operator}__', _method(_name))
ndarray.__matmul__ = _method('matmul')
ndarray.__hash__ = None
