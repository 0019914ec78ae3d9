"""Files of strangers that are pickles, with NumPy's arrays in them, whichever Python and NumPy wrote them; read without
running anything."""
import math
import os
import re
import types

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular
from chainer_caption.storage.pickles import Built, read_pickle, reading

# The largest is read whole; protocol 0 takes three bytes for one of an array.
_MOST = 2 ** 31

_TYPE = re.compile(r'[fiub][1248]')


def read_pickle_file(path):
    """The value that a file spells, of plain values, NumPy's arrays and numbers, and `argparse.Namespace`.

    Args:
        path (str or os.PathLike): The file.

    Returns:
        The value. Arrays in it are `PickledArray`, namespaces `PickledNamespace`, and strings of Python 2 are text or
        bytes (see `storage.pickles`).

    Raises:
        InputError: The file cannot be read, is damaged or too large, or would call what no such value needs.
    """
    with reading(path, 'Python', 'pickle'), open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        if size > _MOST:
            raise InputError(f'{path}: {size:,} bytes are too many for such a file (at most {_MOST:,})')
        return read_pickle(f, _KNOWN, most=size)


class PickledNamespace(Built):
    """An `argparse.Namespace` as a pickle describes it.

    Attributes:
        values (dict): Its attributes.
    """

    def __init__(self):
        self.values = {}

    def build(self, state):
        if not isinstance(state, dict):
            raise ValueError('a namespace without its names')
        self.values = state


class PickledArray(Built):
    """An array as a pickle describes it.

    Attributes:
        shape (tuple of int): Its shape.
        dtype (numpy.dtype): Of its numbers.
    """

    shape = dtype = None

    def build(self, state):
        _, shape, dtype, fortran_order, data = state
        data = _as_bytes(data)
        if not isinstance(dtype, _Type) or not isinstance(shape, tuple) or len(shape) > 32 or \
                not all(type(n) is int and 0 <= n < 2 ** 62 for n in shape):
            raise ValueError(f'an array of shape {shape!r:.100}')
        self.shape, self.dtype, self._data, self._order = shape, dtype.dtype, data, 'F' if fortran_order else 'C'
        if math.prod(shape) * self.dtype.itemsize != len(data):
            raise ValueError(f'an array of shape {shape} with {len(data):,} bytes of {self.dtype}')

    def read(self):
        """The array, a read-only numpy.ndarray of `shape` and `dtype`."""
        return np.frombuffer(self._data, self.dtype).reshape(self.shape, order=self._order)


class _Type(Built):
    def __init__(self, text):
        if not isinstance(text, str) or not _TYPE.fullmatch(text):
            raise ValueError(f'an array of the type {text!r:.100}')
        self.dtype = np.dtype(text)

    def build(self, state):
        if state[1] not in ('<', '>', '|'):
            raise ValueError(f'an array of the order of bytes {state[1]!r:.100}')
        self.dtype = np.dtype(state[1] + self.dtype.str[1:])


def _as_bytes(data):
    # What Python 2 wrote as a string may happen to be text.
    data = data.encode() if isinstance(data, str) else data
    if not isinstance(data, bytes):
        raise ValueError('an array without its bytes')
    return data


def _array(*_):
    return PickledArray()


def _type(text, *_):
    return _Type(text)


def _scalar(described, data):
    if not isinstance(described, _Type):
        raise ValueError('a number of unknown type')
    number, = np.frombuffer(_as_bytes(data), described.dtype)
    return number.item()


def _encode(text, encoding):
    # How protocols 0 to 2 of Python 3 spell bytes.
    if not isinstance(text, str) or encoding != 'latin1':
        raise ValueError('bytes in an unknown encoding')
    return text.encode('latin-1')


def _no_bytes():
    return b''


def _namespace(*_):
    return PickledNamespace()


def _reconstructor(made, *_):
    # How protocols 0 and 1 make an object.
    if not isinstance(made, types.FunctionType):
        raise ValueError('an object of no class')
    return made()


_KNOWN = {
    'numpy.ndarray': None, 'numpy.dtype': _type, '_codecs.encode': _encode, '__builtin__.bytes': _no_bytes,
    **{f'numpy.{core}.multiarray.{name}': function for core in ('core', '_core')
       for name, function in (('_reconstruct', _array), ('scalar', _scalar))},
    'argparse.Namespace': _namespace, '__builtin__.object': None, 'copy_reg._reconstructor': _reconstructor}
