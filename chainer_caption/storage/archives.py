"""Untrusted NumPy archives, read without executing anything in them and within a bound of memory set by their size."""
import contextlib
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.files import Path, open_regular, unreadable

#: What NumPy, zipfile and zlib raise on bytes that are no valid archive or claim more than memory holds.
ARCHIVE_ERRORS = (ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, OverflowError, MemoryError,
                  struct.error, zipfile.BadZipFile, zlib.error)

# A file may hold at most this many bytes, plus its size times the ratio. Compressed floats shrink to a half, rows of
# zeros and a few whole numbers to a fiftieth.
_SMALL, _RATIO = 2 ** 26, 100

_MEMBERS = 10_000               # arrays in an archive; the largest snapshot has some fifty
_HEADER = 10_000                # bytes of an array's header, NumPy's own limit
_CHUNK = 2 ** 20                # bytes
_ENTRY = re.compile(r"'(\w+)'\s*:\s*('[^']*'|True|False|\([\d\sL,]*\))")
_DESCR = re.compile(r"'[<>=|]?[?a-zA-Z]\d{0,9}'")

Header = tuple[tuple[int, ...], np.dtype, bool]


def reject_if(condition: object, message: str) -> None:
    """Raises ValueError, one of ARCHIVE_ERRORS, if a condition holds."""
    if condition:
        raise ValueError(message)


@contextlib.contextmanager
def sound(path: Path, kind: str) -> Iterator[None]:
    """Turns errors in reading an unreadable or damaged file into an InputError that names it and the kind expected."""
    try:
        yield
    except InputError:
        raise
    except OSError as e:
        raise unreadable(path, e) from e
    except ARCHIVE_ERRORS as e:
        raise InputError(f'{path}: not a sound {kind} ({e})') from e


def plausible(claimed: int, size: int) -> bool:
    """Whether a file of `size` bytes can hold `claimed` bytes of numbers."""
    return claimed <= _SMALL + _RATIO * size


def npy_header(f: IO[bytes]) -> Header:
    """Reads the header of the `.npy` that begins at the current position of a file: the shape, the dtype, and whether
    the array is in Fortran order.

    NumPy reads it as a Python expression; here a pattern matches what NumPy writes and nothing else. One of
    ARCHIVE_ERRORS is raised if there is no `.npy`, or its header is damaged."""
    magic = f.read(8)
    reject_if(magic[:6] != b'\x93NUMPY' or magic[6:] not in (b'\1\0', b'\2\0', b'\3\0'), 'not a NumPy array')
    length = int.from_bytes(f.read(2 if magic[6] == 1 else 4), 'little')
    header = f.read(min(length, _HEADER)).decode('latin-1')
    inside = header.strip()[1:-1]
    entries = dict(_ENTRY.findall(inside))
    if len(header) != length or not header.startswith('{') or not header.rstrip().endswith('}') or \
            _ENTRY.sub('', inside).strip(', \n') or entries.keys() != {'descr', 'fortran_order', 'shape'}:
        raise ValueError('the header of an array is damaged')
    shape, order, descr = entries['shape'], entries['fortran_order'], entries['descr']
    if not shape.startswith('(') or order not in ('True', 'False') or not _DESCR.fullmatch(descr):
        raise ValueError(f'an array of shape {shape} and type {descr}')
    numbers = re.findall(r'\d+', shape)
    reject_if(len(numbers) > 32 or any(len(number) > 18 for number in numbers), f'an array of shape {shape}')
    try:
        return tuple(map(int, numbers)), np.dtype(descr[1:-1]), order == 'True'
    except TypeError as e:
        raise ValueError(f'an array of type {descr}') from e


def npz_shapes(path: Path, only: str | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Reads the headers of an `.npz`, so that sizes can be checked before memory is taken: `{name: (shape, dtype)}`, of
    all arrays or of `only` one. Raises InputError if it is no valid `.npz`, or an array in it is pickled or claims more
    than the file can hold."""
    return {name: header[:2] for name, header in _npz(path, lambda f, header: header, only)}


def read_npz(path: Path, only: str | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of an `.npz`: `{name: array}`. Arguments and errors are those of `npz_shapes`."""
    if only is None:
        npz_shapes(path)                                # its refusals come before any array
    return dict(_npz(path, _read_array, only))


def _npz(path: Path, read: Callable[[IO[bytes], Header], Any], only: str | None = None) -> list[tuple[str, Any]]:
    """Pairs of each array's name and the result of `read`, which takes its open file and its header."""
    found = []
    with sound(path, '.npz file'), open_regular(path) as f, zipfile.ZipFile(f) as archive:
        for name, member in valid_members(archive, os.fstat(f.fileno()).st_size).items():
            if only in (None, name):
                with archive.open(member) as array:
                    header = npy_header(array)
                    if header[1].hasobject:
                        raise InputError(f'{path}: {name} is pickled, and loading a pickle could run anything; refused')
                    if array.tell() + math.prod(header[0]) * header[1].itemsize != member.file_size:
                        raise ValueError(f'{name} has not the bytes for its shape {header[0]}')
                    found.append((name, read(array, header)))
    return found


def valid_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip archive by name, without NumPy's suffix, if they are possible in a file of `size` bytes.
    Raises ValueError if they are too many or too large, overlap, repeat a name, or have an unknown compression."""
    members = archive.infolist()
    names = [member.filename.removesuffix('.npy') for member in members]
    reject_if(len(members) > _MEMBERS or len(set(names)) < len(names), 'it holds the same name twice, or too many')
    # Members that share their bytes, or expand to thousands of times of them, make a small file a large one.
    reject_if(sum(member.compress_size for member in members) > size, 'its members do not fit into it')
    claimed = sum(member.file_size for member in members)
    reject_if(not plausible(claimed, size), f'claims {claimed:,} bytes in a file of {size:,}')
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError('compressed in another way than by zlib')
    return dict(zip(names, members, strict=True))


def _read_array(f: IO[bytes], header: Header) -> np.ndarray:
    shape, dtype, fortran_order = header
    data, at = np.empty(math.prod(shape) * dtype.itemsize, np.uint8), 0
    while at < len(data):
        chunk = f.read(min(_CHUNK, len(data) - at))
        if not chunk:
            raise EOFError('an array is cut short')
        data[at:at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    if not data.size:
        return np.empty(shape, dtype)
    return data.view(dtype).reshape(shape, order='F' if fortran_order else 'C')
