"""PyTorch weights files (`.pth`), read without PyTorch and without executing anything.

`torch.save` writes a pickle that describes the tensors, and their numbers: since PyTorch 1.6 as the members of a zip
archive, before that one after the other in one file (`torch/serialization.py`). Each tensor is a view of a storage, a
one-dimensional array: an offset, a shape and strides, all in elements."""
import dataclasses
import math
import os
import zipfile

import numpy as np

from chainer_caption.storage.archives import reject_if, valid_members
from chainer_caption.storage.files import Path, open_regular
from chainer_caption.storage.pickles import read_pickle, reading

# The old format begins with a pickled number, its version, and properties of the machine that wrote it.
_MAGIC, _VERSION = 0x1950a86a20f9469cfc6c, 1001
_DIMENSIONS = 32
# Keys of checkpoints that hold a state dict, which is taken then.
_NESTED = 'state_dict', 'model_state_dict', 'model', 'net', 'encoder'
_DTYPES = {'Float': '<f4', 'Double': '<f8', 'Half': '<f2', 'Long': '<i8', 'Int': '<i4', 'Short': '<i2', 'Char': '|i1',
           'Byte': '|u1', 'Bool': '|b1'}
_FOREIGN = 'BFloat16'                                   # NumPy has no such dtype


def is_torch_file(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 16 or more, is a PyTorch file, in either format."""
    return head[:2] == b'PK' or _MAGIC.to_bytes(10, 'little') in head[:16]


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    size: int                                           # in elements, as `start`
    start: int = 0                                      # not 0 for a part of another storage


@dataclasses.dataclass(frozen=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read from its file yet."""
    path: Path
    place: int                                          #: the offset of its first number in the file, in bytes
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]                            #: in elements

    def read(self) -> np.ndarray:
        """Reads the tensor as a contiguous array; raises OSError or EOFError where the file has changed."""
        count = _span(self.shape, self.strides)
        numbers = np.fromfile(self.path, self.dtype, count, offset=self.place)
        if len(numbers) < count:
            raise EOFError('the file is cut short')
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers, self.shape, strides)).reshape(self.shape)


def read_state_dict(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict written by `torch.save`, in either format, by name; none is read yet.

    Values that are no tensors are left out; of a checkpoint with the key `state_dict` or its like, its value is taken.
    Raises InputError if the file is unreadable, damaged or no PyTorch file, claims more than it can hold, or is a
    pickle that would call other functions than a state dict needs."""
    with reading(path, 'PyTorch', "file of PyTorch's"), open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        value, places = (_zipped if f.read(2) == b'PK' else _in_a_row)(f, size)
        return {name: _stored(path, view, places) for name, view in _state_dict(value).items()
                if isinstance(name, str) and isinstance(view, _View)}


def _state_dict(value):
    nested = [value.get(key) for key in _NESTED] if isinstance(value, dict) else []
    for inner in (*nested, value):
        if isinstance(inner, dict) and any(isinstance(view, _View) for view in inner.values()):
            return inner
    raise ValueError('it holds no state dict')


def _stored(path, view, places):
    storage, dtype = view.storage, view.storage.dtype
    reject_if(storage.key not in places, f'the numbers of storage {storage.key} are missing')
    at = storage.start + view.offset
    return StoredTensor(path, places[storage.key] + at * dtype.itemsize, dtype, view.shape, view.strides)


# Both readers return the value of the pickle, and the offset in the file of each storage.
def _zipped(f, size):
    with zipfile.ZipFile(f) as archive:
        members = valid_members(archive, size)
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
            # A member's own header gives the lengths of its name and padding, which precede its bytes.
            f.seek(member.header_offset + 26)
            name, padding = (int.from_bytes(f.read(2), 'little') for _ in range(2))
            places[key] = member.header_offset + 30 + name + padding
            reject_if(places[key] + member.file_size > size, 'it is cut short')
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
    keys = read_pickle(f, {})
    reject_if(not isinstance(keys, list), 'no list of its storages')
    for key in keys:
        storage = storages[key] if isinstance(key, str) else None
        if storage is None or int.from_bytes(f.read(8), 'little') != storage.size:
            raise ValueError(f'storage {key} has not the numbers that it says')
        places[key], length = f.tell(), storage.size * storage.dtype.itemsize
        reject_if(places[key] + length > size, 'it is cut short')
        f.seek(length, os.SEEK_CUR)
    return value, places


def _read(f):
    storages: dict[str, _Storage] = {}

    def persistent(described):
        kind, dtype, key, _, size, *view = described
        reject_if(dtype == _FOREIGN, f'its numbers are {_FOREIGN}; save them as float32')
        if kind != 'storage' or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise ValueError('a storage of unknown kind')
        storage = _Storage(key, dtype, *_counts([size]))
        reject_if(storages.setdefault(key, storage) != storage, f'storage {key} is described in two ways')
        if view and view[0] is not None:
            _, start, length = view[0]
            start, length = _counts([start, length])
            reject_if(start + length > size, f'a part of storage {key} lies outside of it')
            storage = _Storage(key, dtype, length, start)
        return storage

    return read_pickle(f, _KNOWN, persistent), storages


# Stand-ins for the functions that a state dict names.
def _ordered(pairs=()):
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(key, str) for key, _ in pairs):
        raise ValueError('a dictionary of unknown kind')
    return dict(pairs)


def _tensor(storage, offset, shape, strides, *_):
    (offset,), shape, strides = _counts([offset]), _counts(shape), _counts(strides)
    reject_if(not isinstance(storage, _Storage) or len(shape) != len(strides), 'a tensor of unknown kind')
    # A tensor that repeats its numbers could have any size.
    if offset + _span(shape, strides) > storage.size or math.prod(shape) > storage.size:
        raise ValueError(f'a tensor of shape {shape} lies outside of its storage')
    return _View(storage, offset, shape, strides)


def _counts(numbers):
    reject_if(not isinstance(numbers, (tuple, list)) or len(numbers) > _DIMENSIONS or
              not all(type(number) is int and 0 <= number < 2 ** 62 for number in numbers), 'a size that is none')
    return tuple(numbers)


def _span(shape, strides):
    """The number of elements from a tensor's first number to its last."""
    return 0 if 0 in shape else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


_KNOWN = {
    'collections.OrderedDict': _ordered, 'argparse.Namespace': lambda: {},      # options beside the weights
    **dict.fromkeys(('torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_tensor'), _tensor),
    **dict.fromkeys(('torch._utils._rebuild_parameter', 'torch.nn.parameter.Parameter'), lambda tensor, *_: tensor),
    **{f'torch.{name}Storage': np.dtype(dtype) for name, dtype in _DTYPES.items()},
    f'torch.{_FOREIGN}Storage': _FOREIGN}
