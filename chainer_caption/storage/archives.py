"""NumPy's archives of strangers, read without executing anything in them, and with no more memory than their size can
justify."""
import math
import os
import re
import struct
import zipfile
import zlib

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular, unreadable

# What NumPy, zipfile and zlib raise on bytes that are no sound archive or claim more than memory holds.
ARCHIVE_ERRORS = (ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, OverflowError, MemoryError,
                  struct.error, zipfile.BadZipFile, zlib.error)

# What a file may hold beyond its size, in bytes, and how many times that size: compressed floats shrink to a half, rows
# of zeros and a few whole numbers to a fiftieth.
_SMALL, _RATIO = 2 ** 26, 100

_MEMBERS = 10_000               # arrays in an archive; the largest snapshot has some fifty
_HEADER = 10_000                # bytes of an array's header, NumPy's own limit
_CHUNK = 2 ** 20

_ENTRY = re.compile(r"'(\w+)'\s*:\s*('[^']*'|True|False|\([\d\sL,]*\))")
_DESCR = re.compile(r"'[<>=|]?[?a-zA-Z]\d{0,9}'")


def plausible(claimed, size):
    """Whether a file of `size` bytes may be believed to hold `claimed` bytes of numbers."""
    return claimed <= _SMALL + _RATIO * size


def npy_header(f):
    """The shape and dtype of the `.npy` that begins where the open file `f` stands, and whether it is in Fortran order.

    NumPy reads the header as a Python expression. Here a pattern reads it, which fits what NumPy writes and no other
    expression.

    Raises:
        One of ARCHIVE_ERRORS: No `.npy` begins there, or its header is damaged.
    """
    magic = f.read(8)
    if magic[:6] != b'\x93NUMPY' or magic[6:] not in (b'\1\0', b'\2\0', b'\3\0'):
        raise ValueError('not a NumPy array')
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(f.read(width), 'little')
    header = f.read(min(length, _HEADER)).decode('latin-1')
    if len(header) != length or not header.startswith('{') or not header.rstrip().endswith('}'):
        raise ValueError('the header of an array is damaged')
    inside = header.strip()[1:-1]
    entries = dict(_ENTRY.findall(inside))
    if _ENTRY.sub('', inside).strip(', \n') or entries.keys() != {'descr', 'fortran_order', 'shape'}:
        raise ValueError('the header of an array is damaged')
    shape, order, descr = entries['shape'], entries['fortran_order'], entries['descr']
    if not shape.startswith('(') or order not in ('True', 'False') or not _DESCR.fullmatch(descr):
        raise ValueError(f'an array of shape {shape} and type {descr}')
    numbers = re.findall(r'\d+', shape)
    if len(numbers) > 32 or any(len(number) > 18 for number in numbers):
        raise ValueError(f'an array of shape {shape}')
    try:
        return tuple(map(int, numbers)), np.dtype(descr[1:-1]), order == 'True'
    except TypeError as e:
        raise ValueError(f'an array of type {descr}') from e


def npz_shapes(path, only=None):
    """What an `.npz` says it holds, read from its headers alone: `{name: (shape, dtype)}`.

    Nothing is unpickled and no array is read, so that sizes can be checked before memory is taken. `only` names the one
    array to look at; the others may be whatever they are.

    Raises:
        InputError: No sound `.npz`, or an array in it would need unpickling, or claims more than the file can hold.
    """
    return {name: (shape, dtype) for name, (shape, dtype, _) in _npz(path, lambda f, header: header, only)}


def read_npz(path, only=None):
    """Reads arrays of an `.npz`: `{name: array}`. Pickles are refused; see `npz_shapes` to check sizes first.

    Args:
        path (str or os.PathLike): The file.
        only (str or None): The one array to read; the others are not even looked at.

    Raises:
        InputError: As `npz_shapes`.
    """
    if only is None:
        npz_shapes(path)                                # its refusals come before any array
    return dict(_npz(path, _read_array, only))


def _npz(path, read, only=None):
    """Pairs of each array's name with what `read` gives for its open file and its header."""
    found = []
    try:
        with open_regular(path) as f, zipfile.ZipFile(f) as archive:
            for name, member in sound_members(archive, os.fstat(f.fileno()).st_size).items():
                if only is None or name == only:
                    with archive.open(member) as array:
                        header = npy_header(array)
                        if header[1].hasobject:
                            raise InputError(f'{path}: {name} is pickled, and loading a pickle could run anything; '
                                             'refused')
                        if array.tell() + _bytes(*header[:2]) != member.file_size:
                            raise ValueError(f'{name} has not the bytes for its shape {header[0]}')
                        found.append((name, read(array, header)))
    except OSError as e:
        raise unreadable(path, e) from e
    except InputError:
        raise
    except ARCHIVE_ERRORS as e:
        raise InputError(f'{path}: not a sound .npz file ({e})') from e
    return found


def sound_members(archive, size):
    """The members of a zip archive by name, without NumPy's suffix, if they can be what they say.

    Args:
        archive (zipfile.ZipFile): The archive.
        size (int): Of its file, in bytes.

    Returns:
        dict: Name to zipfile.ZipInfo.

    Raises:
        ValueError: They cannot.
    """
    members = archive.infolist()
    names = [member.filename.removesuffix('.npy') for member in members]
    if len(members) > _MEMBERS or len(set(names)) < len(names):
        raise ValueError('it holds the same name twice, or too many')
    # Members that share their bytes, or expand to thousands of times of them, make a small file a large one.
    if sum(member.compress_size for member in members) > size:
        raise ValueError('its members do not fit into it')
    claimed = sum(member.file_size for member in members)
    if not plausible(claimed, size):
        raise ValueError(f'claims {claimed:,} bytes in a file of {size:,}')
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError('compressed in another way than by zlib')
    return dict(zip(names, members, strict=True))


def _bytes(shape, dtype):
    return math.prod(shape) * dtype.itemsize


def _read_array(f, header):
    shape, dtype, fortran_order = header
    data = np.empty(_bytes(shape, dtype), np.uint8)
    at = 0
    while at < len(data):
        chunk = f.read(min(_CHUNK, len(data) - at))
        if not chunk:
            raise EOFError('an array is cut short')
        data[at:at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    if not data.size:
        return np.empty(shape, dtype)
    return data.view(dtype).reshape(shape, order='F' if fortran_order else 'C')
