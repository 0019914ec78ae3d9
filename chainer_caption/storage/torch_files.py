"""PyTorch's files of weights (`.pth`), read without PyTorch and without running anything.

`torch.save` writes a pickle that describes the tensors, and their numbers beside it: since PyTorch 1.6 as the members
of a zip archive, before that one after the other in one file (`torch/serialization.py` has both). Each tensor is a view
of a storage, a row of numbers: where it begins, its shape and its strides, all in elements.
"""
import dataclasses
import math
import os
import zipfile

import numpy as np

from chainer_caption.storage.archives import sound_members
from chainer_caption.storage.files import open_regular
from chainer_caption.storage.pickles import read_pickle, reading

# What begins the old format: a pickled number, its version, and facts of the machine that wrote it.
_MAGIC, _VERSION = 0x1950a86a20f9469cfc6c, 1001

_DIMENSIONS = 32

_DTYPES = {'Float': '<f4', 'Double': '<f8', 'Half': '<f2', 'Long': '<i8', 'Int': '<i4', 'Short': '<i2', 'Char': '|i1',
           'Byte': '|u1', 'Bool': '|b1'}
_FOREIGN = 'BFloat16'                                   # which NumPy does not have


def is_torch_file(head):
    """Whether a file that begins with these bytes, 16 or more, is one of PyTorch's, in either format."""
    return head[:2] == b'PK' or _MAGIC.to_bytes(10, 'little') in head[:16]


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    size: int                                           # in elements, as `start`
    start: int = 0                                      # of a storage that is a part of another


@dataclasses.dataclass(frozen=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file.

    Attributes:
        path (str or os.PathLike): The file.
        place (int): Where in it the first of its numbers is, in bytes.
        dtype (numpy.dtype): Of its numbers.
        shape (tuple of int): Its shape.
        strides (tuple of int): From one number to the next in each dimension, in elements.
    """

    path: str
    place: int
    dtype: np.dtype
    shape: tuple
    strides: tuple

    def read(self):
        """Reads it: a contiguous numpy.ndarray of `shape` and `dtype`.

        Raises:
            OSError: The file cannot be read any more.
            EOFError: It has become shorter.
        """
        count = _span(self.shape, self.strides)
        numbers = np.fromfile(self.path, self.dtype, count, offset=self.place)
        if len(numbers) < count:
            raise EOFError('the file is cut short')
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers, self.shape, strides)).reshape(self.shape)


def read_state_dict(path):
    """The tensors of a state dict that `torch.save` has written, by name; none is read yet.

    Args:
        path (str or os.PathLike): The file, in either of PyTorch's formats. What is no tensor in it is left out, and of
            a checkpoint that has the key `state_dict` that one is taken.

    Returns:
        dict: Name to StoredTensor.

    Raises:
        InputError: The file cannot be read, is none of PyTorch's or damaged, claims more than it can hold, or is a
            pickle that would call what no state dict needs.
    """
    with reading(path, 'PyTorch', "file of PyTorch's"):
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            value, places = (_zipped if f.read(2) == b'PK' else _in_a_row)(f, size)
        return {name: _stored(path, view, places) for name, view in _state_dict(value).items()
                if isinstance(name, str) and isinstance(view, _View)}


def _state_dict(value):
    inner = value.get('state_dict') if isinstance(value, dict) else None
    value = inner if isinstance(inner, dict) else value
    if not isinstance(value, dict) or not any(isinstance(view, _View) for view in value.values()):
        raise ValueError('it holds no state dict')
    return value


def _stored(path, view, places):
    storage, dtype = view.storage, view.storage.dtype
    if storage.key not in places:
        raise ValueError(f'the numbers of storage {storage.key} are missing')
    at = storage.start + view.offset
    return StoredTensor(path, places[storage.key] + at * dtype.itemsize, dtype, view.shape, view.strides)


# Both formats: the value of the pickle, and where in the file each storage begins.

def _zipped(f, size):
    with zipfile.ZipFile(f) as archive:
        members = sound_members(archive, size)
        folder, = (name.removesuffix('data.pkl') for name in members if name.split('/')[1:] == ['data.pkl'])
        if members.get(f'{folder}byteorder') and archive.read(members[f'{folder}byteorder']) != b'little':
            raise ValueError('written on a machine with another order of bytes')
        with archive.open(members[f'{folder}data.pkl']) as pickled:
            value, storages = _read(pickled)
        places = {}
        for key, storage in storages.items():
            member = members[f'{folder}data/{key}']
            if member.compress_type != zipfile.ZIP_STORED or storage.size * storage.dtype.itemsize > member.file_size:
                raise ValueError(f'storage {key} has not the bytes of its {storage.size:,} numbers')
            # Between the member's own header and its bytes stand its name and padding, whose lengths only that knows.
            f.seek(member.header_offset + 26)
            lengths = f.read(4)
            place = member.header_offset + 30 + int.from_bytes(lengths[:2], 'little') + \
                int.from_bytes(lengths[2:], 'little')
            places[key] = _inside(place, member.file_size, size)
        return value, places


def _in_a_row(f, size):
    f.seek(0)
    if (read_pickle(f, {}), read_pickle(f, {})) != (_MAGIC, _VERSION):
        raise ValueError('neither a zip archive nor of the format before it')
    machine = read_pickle(f, {})
    if not isinstance(machine, dict) or machine.get('little_endian') is not True:
        raise ValueError('written on a machine with another order of bytes')
    value, storages = _read(f)
    places = {}
    for key in _list(read_pickle(f, {})):
        storage = storages[key] if isinstance(key, str) else None
        if storage is None or int.from_bytes(f.read(8), 'little') != storage.size:
            raise ValueError(f'storage {key} has not the numbers that it says')
        places[key] = _inside(f.tell(), storage.size * storage.dtype.itemsize, size)
        f.seek(storage.size * storage.dtype.itemsize, os.SEEK_CUR)
    return value, places


def _list(value):
    if not isinstance(value, list):
        raise ValueError('no list of its storages')
    return value


def _inside(place, length, size):
    if place + length > size:
        raise EOFError('it is cut short')
    return place


# The names of a state dict, and what stands for them here.

def _read(f):
    storages = {}

    def persistent(described):
        kind, dtype, key, _, size, *view = described
        if dtype == _FOREIGN:
            raise ValueError(f'its numbers are {_FOREIGN}; save them as float32')
        if kind != 'storage' or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise ValueError('a storage of unknown kind')
        storage = _Storage(key, dtype, *_counts([size]))
        if storages.setdefault(key, storage) != storage:
            raise ValueError(f'storage {key} is described in two ways')
        if view and view[0] is not None:
            _, start, length = view[0]
            start, length = _counts([start, length])
            if start + length > size:
                raise ValueError(f'a part of storage {key} lies outside of it')
            storage = _Storage(key, dtype, length, start)
        return storage

    return read_pickle(f, _KNOWN, persistent), storages


def _ordered(pairs=()):
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(key, str) for key, _ in pairs):
        raise ValueError('a dictionary of unknown kind')
    return dict(pairs)


def _tensor(storage, offset, shape, strides, *_):
    (offset,), shape, strides = _counts([offset]), _counts(shape), _counts(strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError('a tensor of unknown kind')
    # One that repeats its numbers could be of any size.
    if offset + _span(shape, strides) > storage.size or math.prod(shape) > storage.size:
        raise ValueError(f'a tensor of shape {shape} lies outside of its storage')
    return _View(storage, offset, shape, strides)


def _parameter(tensor, *_):
    return tensor


def _counts(numbers):
    if not isinstance(numbers, (tuple, list)) or len(numbers) > _DIMENSIONS or \
            not all(type(number) is int and 0 <= number < 2 ** 62 for number in numbers):
        raise ValueError('a size that is none')
    return tuple(numbers)


def _span(shape, strides):
    """From the first of a tensor's numbers to behind the last, in elements."""
    return 0 if 0 in shape else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


_KNOWN = {'collections.OrderedDict': _ordered, 'torch._utils._rebuild_tensor_v2': _tensor,
          'torch._utils._rebuild_tensor': _tensor, 'torch._utils._rebuild_parameter': _parameter,
          'torch.nn.parameter.Parameter': _parameter,
          **{f'torch.{name}Storage': np.dtype(dtype) for name, dtype in _DTYPES.items()},
          f'torch.{_FOREIGN}Storage': _FOREIGN}
