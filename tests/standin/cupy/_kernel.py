"""ElementwiseKernel, with CuPy's rules of what it takes."""
import dataclasses
import numbers
import re

import numpy as np

from . import _compiler
from ._array import empty, ndarray, quiet
from ._device import launch
from .standin import RaceError


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter of a kernel: `raw T W` or `int32 word`; its `dtype` is None where its type is a placeholder."""
    type: str
    name: str
    dtype: np.dtype | None
    raw: bool
    output: bool


def _parse(text, output):
    params = []
    for part in text.split(',') if text.strip() else ():
        found = re.fullmatch(r'\s*(raw\s+)?(\w+)\s+(\w+)\s*', part)
        if not found:
            raise ValueError(f'Syntax error: {part}')
        raw, type_, name = found.groups()
        if name == 'i':
            raise ValueError("Can not use 'i' as a parameter name")
        dtype = None if len(type_) == 1 else np.dtype(type_)
        params.append(Param(type_, name, dtype, bool(raw), output))
    return params


class ElementwiseKernel:
    """A kernel that does the same for each element of its arrays.

    Args:
        in_params (str): `'T x, raw T W, int32 width'`.
        out_params (str): Likewise.
        operation (str): C++ for one element, whose place in C order is `i`.
        name (str): Its name.
        reduce_dims (bool): Allowed, and of no consequence here.
        preamble (str): C++ before the kernel.
        no_return (bool): Whether a call gives None.
        return_tuple (bool): Whether a call gives a tuple also of one output.
    """

    def __init__(self, in_params, out_params, operation, name='kernel', reduce_dims=True, preamble='',
                 no_return=False, return_tuple=False, **others):
        if others:
            raise NotImplementedError(f'the stand-in has no {", ".join(others)} of ElementwiseKernel')
        self.in_params, self.out_params = _parse(in_params, False), _parse(out_params, True)
        self.params = self.in_params + self.out_params
        self.nin, self.nargs = len(self.in_params), len(self.params)
        self.operation, self.name, self.preamble = operation, name, preamble
        self._no_return, self._return_tuple = no_return, return_tuple

    def __call__(self, *args, size=-1, stream=None, block_size=None):
        if len(args) not in (self.nin, self.nargs):
            raise TypeError(f'Wrong number of arguments for {self.name}. It must be either {self.nin} or {self.nargs} '
                            f'(with outputs), but given {len(args)}.')
        for arg in args:
            if not isinstance(arg, (ndarray, numbers.Number, np.bool_)):
                raise TypeError(f'Unsupported type {type(arg)}')
        shape = self._shape(args, size)
        types = self._types(args)
        outputs = list(args[self.nin:]) or self._outputs(shape, size, types)
        for param, array in zip(self.out_params, outputs, strict=True):
            if not isinstance(array, ndarray):
                raise TypeError('Output arguments type must be cupy.ndarray')
            if not param.raw and array.shape != shape:
                raise ValueError(f'Out shape is mismatched: {param.name} is {array.shape}, not {shape}')
        args = [*args[:self.nin], *outputs]
        arrays = [isinstance(arg, ndarray) for arg in args]
        launch(self.name, *(arg for arg, is_array in zip(args, arrays, strict=True) if is_array))
        self._check_overlap(args)
        elements = int(np.prod(shape))
        if elements:
            source = _compiler.source_of(self.params, types, arrays, self.operation, self.preamble)
            views = [self._view(param, arg, shape, types) for param, arg in zip(self.params, args, strict=True)]
            _compiler.run(self.name, source, elements, self.params, views)
        if self._no_return:
            return None
        return outputs[0] if len(outputs) == 1 and not self._return_tuple else tuple(outputs)

    def _shape(self, args, size):
        shapes = [arg.shape for param, arg in zip(self.params, args, strict=False)
                  if isinstance(arg, ndarray) and not param.raw]
        for param, arg in zip(self.params, args, strict=False):
            if param.raw and not isinstance(arg, ndarray):
                raise TypeError(f'{self.name}: the raw argument {param.name} must be an array')
        if size != -1:
            if shapes:
                raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'.")
            return (size,)
        if not shapes:
            raise ValueError('Loop size is undecided.')
        return np.broadcast_shapes(*shapes)

    def _types(self, args):
        # Arrays decide, outputs before inputs; scalars are cast to what is decided.
        types = {}
        given = list(zip(self.params, args, strict=False))
        for param, arg in given[self.nin:] + given[:self.nin]:
            if not isinstance(arg, ndarray):
                continue
            wanted = types.setdefault(param.type, arg.dtype) if param.dtype is None else param.dtype
            if arg.dtype != wanted:
                raise TypeError(f'Type is mismatched. {param.name} {arg.dtype} {wanted} {param.type}')
        for param in self.params:
            if param.dtype is None and param.type not in types:
                raise TypeError(f'{self.name}: no array says what {param.type} is')
        return types

    def _outputs(self, shape, size, types):
        if size == -1 and any(param.raw for param in self.out_params):
            raise ValueError('Output array size is Undecided')
        return [empty(shape, types[param.type] if param.dtype is None else param.dtype) for param in self.out_params]

    @quiet
    def _view(self, param, arg, shape, types):
        if not isinstance(arg, ndarray):
            return np.array(arg).astype(types[param.type] if param.dtype is None else param.dtype)
        return arg._a if param.raw else np.broadcast_to(arg._a, shape)

    def _check_overlap(self, args):
        # An element may read what it writes itself, and nothing that another one writes.
        for number, (param, out) in enumerate(zip(self.params, args, strict=True)):
            if not param.output or not out.size:
                continue
            if any(stride == 0 and length > 1 for stride, length in zip(out.strides, out.shape, strict=True)):
                raise RaceError(f'{self.name}: elements of {param.name} are one and the same place')
            for other, (other_param, arg) in enumerate(zip(self.params, args, strict=True)):
                if other == number or not isinstance(arg, ndarray) or not np.shares_memory(out._a, arg._a):
                    continue
                if param.raw or other_param.raw or _place(out._a) != _place(arg._a):
                    raise RaceError(f'{self.name}: {param.name} is written and shares memory with {other_param.name}')


def _place(a):
    return a.__array_interface__['data'][0], a.shape, a.strides


class ReductionKernel:
    def __init__(self, *args, **kwargs):
        raise NotImplementedError('the stand-in has no ReductionKernel')


class RawKernel:
    def __init__(self, *args, **kwargs):
        raise NotImplementedError('the stand-in has no RawKernel')
