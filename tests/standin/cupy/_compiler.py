"""Compiles an elementwise kernel's C++ with g++, and runs it over its elements."""
import atexit
import ctypes
import functools
import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

from .standin import RaceError

_HEADER = pathlib.Path(__file__).with_name('kernel.h')
_C_TYPES = {'bool': 'bool', 'int8': 'signed char', 'uint8': 'unsigned char', 'int16': 'short',
            'uint16': 'unsigned short', 'int32': 'int', 'uint32': 'unsigned int', 'int64': 'long long',
            'uint64': 'unsigned long long', 'float32': 'float', 'float64': 'double'}
_OUT_OF_BOUNDS = 1


class _Argument(ctypes.Structure):
    _fields_ = (('data', ctypes.c_void_p), ('ndim', ctypes.c_ssize_t), ('size', ctypes.c_ssize_t),
                ('packed', ctypes.c_ssize_t), ('shape', ctypes.c_void_p), ('strides', ctypes.c_void_p))


class _Fault(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ssize_t) for name in ('kind', 'argument', 'index', 'element', 'other'))


def c_type(dtype):
    """The name of a dtype in C++."""
    if dtype.name not in _C_TYPES:
        raise NotImplementedError(f'the stand-in has no kernels of {dtype.name}')
    return _C_TYPES[dtype.name]


@functools.cache
def _folder():
    told = os.environ.get('STANDIN_CACHE')
    if told:
        return pathlib.Path(told)
    made = tempfile.mkdtemp(prefix='standin')
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return pathlib.Path(made)


@functools.cache
def _compiled(source):
    digest = hashlib.sha256(_HEADER.read_bytes() + source.encode()).hexdigest()[:24]
    library = _folder() / f'{digest}.so'
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as folder:
            text, made = pathlib.Path(folder, 'kernel.cc'), pathlib.Path(folder, 'kernel.so')
            text.write_text(source)
            done = subprocess.run(['g++', '-std=c++17', '-O1', '-shared', '-fPIC', '-include', _HEADER, text, '-o',
                                   made], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f'a kernel cannot be compiled:\n{source}\n{done.stderr}')
            made.rename(library)                            # whole or not at all: others may compile the same
    return ctypes.CDLL(str(library)).run


def source_of(params, types, arrays, operation, preamble):
    """The C++ of a kernel for certain types.

    Args:
        params (sequence of Param): Its parameters.
        types (dict): The dtype of each type placeholder.
        arrays (sequence of bool): Whether each argument is an array and not a scalar.
        operation (str): What is done for an element.
        preamble (str): What stands before the kernel.
    """
    outside, inside = [], []
    for number, (param, is_array) in enumerate(zip(params, arrays, strict=True)):
        type_ = c_type(types[param.type] if param.dtype is None else param.dtype)
        if param.raw:
            kind = 'Raw' if param.output else 'const ConstRaw'
            outside.append(f'{kind}<{type_}> {param.name}(args[{number}], {number}, i);')
        elif is_array and param.output:
            inside.append(f'{type_} &{param.name} = *({type_} *)args[{number}].address(i);')
        elif is_array:
            inside.append(f'const {type_} {param.name} = *(const {type_} *)args[{number}].address(i);')
        else:
            outside.append(f'const {type_} {param.name} = *(const {type_} *)args[{number}].data;')
    placeholders = [f'typedef {c_type(dtype)} {name};' for name, dtype in sorted(types.items())]
    head = 'extern "C" int run(ptrdiff_t size, const Argument *args, Fault *fault) {'
    return '\n'.join([*placeholders, preamble, head, 'Indexer _ind{size};', 'ptrdiff_t i = 0;', 'try {', *outside,
                      'for (; i < size; ++i) {', *inside, '{', operation + ';', '}', '}',
                      '} catch (const Fault &found) { *fault = found; return 1; }', 'return 0; }', ''])


def run(name, source, size, params, arguments):
    """Runs a kernel.

    Args:
        name (str): Its name.
        source (str): Its C++.
        size (int): Over how many elements.
        params (sequence of Param): Its parameters.
        arguments (sequence of numpy.ndarray): A view of each argument: a scalar of the right type, the whole of a
            raw array, or an array broadcast to the shape of all.

    Raises:
        IndexError: A raw argument is read or written outside of it.
        RaceError: Two elements write the same place, or one reads what the other writes.
    """
    kept = [(np.array(a.shape, np.intp), np.array(a.strides, np.intp)) for a in arguments]
    described = (_Argument * len(arguments))(*(
        _Argument(a.__array_interface__['data'][0], a.ndim, a.size, a.flags.c_contiguous * a.itemsize,
                  shape.ctypes.data, strides.ctypes.data)
        for a, (shape, strides) in zip(arguments, kept, strict=True)))
    fault = _Fault()
    if not _compiled(source)(ctypes.c_ssize_t(size), described, ctypes.byref(fault)):
        return
    param = params[fault.argument].name
    if fault.kind == _OUT_OF_BOUNDS:
        raise IndexError(f'{name}: element {fault.element} asks for {param}[{fault.index}], which has '
                         f'{arguments[fault.argument].size}')
    other = f'element {fault.other}' if fault.other >= 0 else 'others'
    raise RaceError(f'{name}: element {fault.element} and {other} meet at {param}[{fault.index}] without atomicAdd')
