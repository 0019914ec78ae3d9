"""Untrusted pickle files with NumPy arrays, of any Python and NumPy, read without executing anything."""
import math
import os
import re
import types
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import reject_if
from chainer_caption.storage.files import Path, open_regular
from chainer_caption.storage.pickles import Built, read_pickle, reading

_MOST = 2 ** 31     # bytes of a file, which is read whole; protocol 0 takes three bytes for one of an array
_TYPE = re.compile(r'[fiub][1248]')


def read_pickle_file(path: Path) -> Any:
    """Reads a pickle file of plain values, NumPy arrays (`PickledArray`) and scalars, and `argparse.Namespace`
    (`PickledNamespace`). Strings of Python 2 are text or bytes (see `storage.pickles`).

    Raises InputError if the file is unreadable, damaged or too large, or would call any other function."""
    with reading(path, 'Python', 'pickle'), open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        if size > _MOST:
            raise InputError(f'{path}: {size:,} bytes are too many for such a file (at most {_MOST:,})')
        return read_pickle(f, _KNOWN, most=size)


class PickledNamespace(Built):
    """An `argparse.Namespace` in a pickle; `values` are its attributes by name."""
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        reject_if(not isinstance(state, dict), 'a namespace without its names')
        self.values = state


class PickledArray(Built):
    """A NumPy array in a pickle, with the `shape` and `dtype` of its numbers."""
    shape: tuple[int, ...]
    dtype: np.dtype

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran_order, data = state
        data = _as_bytes(data)
        reject_if(not isinstance(dtype, _Type) or not isinstance(shape, tuple) or len(shape) > 32 or
                  not all(type(n) is int and 0 <= n < 2 ** 62 for n in shape), f'an array of shape {shape!r:.100}')
        self.shape, self.dtype, self._data, self._fortran = shape, dtype.dtype, data, bool(fortran_order)
        if math.prod(shape) * self.dtype.itemsize != len(data):
            raise ValueError(f'an array of shape {shape} with {len(data):,} bytes of {self.dtype}')

    def read(self) -> np.ndarray:
        """The array, read-only."""
        return np.frombuffer(self._data, self.dtype).reshape(self.shape, order='F' if self._fortran else 'C')


class _Type(Built):
    def __init__(self, text):
        reject_if(not isinstance(text, str) or not _TYPE.fullmatch(text), f'an array of the type {text!r:.100}')
        self.dtype = np.dtype(text)

    def build(self, state):
        reject_if(state[1] not in ('<', '>', '|'), f'an array of the order of bytes {state[1]!r:.100}')
        self.dtype = np.dtype(state[1] + self.dtype.str[1:])


def _as_bytes(data):
    data = data.encode() if isinstance(data, str) else data     # a string of Python 2 may be valid text
    reject_if(not isinstance(data, bytes), 'an array without its bytes')
    return data


def _scalar(described, data):
    reject_if(not isinstance(described, _Type), 'a number of unknown type')
    number, = np.frombuffer(_as_bytes(data), described.dtype)
    return number.item()


def _encode(text, encoding):            # how protocols 0 to 2 of Python 3 spell bytes
    reject_if(not isinstance(text, str) or encoding != 'latin1', 'bytes in an unknown encoding')
    return text.encode('latin-1')


def _reconstructor(made, *_):           # how protocols 0 and 1 make an object
    reject_if(not isinstance(made, types.FunctionType), 'an object of no class')
    return made()


# The functions that a pickle may call, with their stand-ins.
_KNOWN = {
    'numpy.ndarray': None, 'numpy.dtype': lambda text, *_: _Type(text), '_codecs.encode': _encode,
    '__builtin__.bytes': lambda: b'', 'argparse.Namespace': lambda *_: PickledNamespace(), '__builtin__.object': None,
    'copy_reg._reconstructor': _reconstructor,
    **{f'numpy.{core}.multiarray.{name}': function for core in ('core', '_core')
       for name, function in (('_reconstruct', lambda *_: PickledArray()), ('scalar', _scalar))}}
