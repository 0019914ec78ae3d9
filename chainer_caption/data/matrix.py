"""Feature files, checked and memory-mapped: vectors (N x D) and grids (N x L x D); and their provenance records.

Vectors are read from MATLAB 5 to 7 (`feats`, D x N), from MATLAB 7.3, which is HDF5 (`feats`, D x N in MATLAB's terms),
and from `.npy` and `.npz` (`feats`), both N x D. Grids are read from `.npy` and `.npz` (`grids`), N x L x D. The first
bytes of a file tell its format, not its name."""
import collections
import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from chainer_caption.data.matlab import open_matlab
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS, base_encoder
from chainer_caption.storage.archives import ARCHIVE_ERRORS, npy_header, npz_shapes, plausible, read_npz, reject_if
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import atomic_write, open_regular, read_json, unreadable, unwritable, write_json
from chainer_caption.storage.legacy import current_keys

Path = str | os.PathLike
Shape = tuple[int, ...]
# By the number of axes: the array's name in an archive, and the name of its copy in the cache entry.
_KEYS = {2: 'feats', 3: 'grids'}
_COPIES = {2: 'features.npy', 3: 'grids.npy'}
_MEANS = 'means.npy'
_MADE_BY = 'encoder', 'preprocessing'
_BLOCK = 2 ** 25                # bytes checked and copied at a time, more or less


class _Source(NamedTuple):
    """An array that is still to be read: `blocks()` gives an iterator over its rows."""
    shape: Shape
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]


@contextlib.contextmanager
def opening_matrix(path: Path, axes: Shape = (2,)) -> Iterator[Callable[[int | None], np.ndarray]]:
    """Opens a feature file, of 2 axes (vectors) or 3 (grids), and checks that every value is a finite number.

    A row-major `.npy` of float32 or float16 is memory-mapped in place. Any other file, or one on a mount that refuses
    mmap, is copied once into the cache and mapped there; where the cache cannot be written or mapped, the array is held
    in memory.

    Yields a function that takes the least number of images that the file must hold, or None, and returns the array:
    (N, D) or (N, L, D), float16 where the file has that, float32 otherwise; read-only. Another process reads a MATLAB
    file meanwhile, so open other files before calling it. Raises InputError if the file is missing or damaged, holds no
    such array, too few images, or a NaN or an infinity."""
    try:
        entry = entry_folder(path)
        with open_regular(path) as f:
            head = f.read(6)
            size = f.seek(0, 2)
    except OSError as e:
        raise unreadable(path, e) from e
    if head == b'\x93NUMPY':
        yield lambda images: _open_npy(path, entry, size, images, axes)
        return
    copies = (_mapped(entry / _COPIES[n]) for n in axes)
    if (matrix := next((copy for copy in copies if copy is not None), None)) is not None:
        yield lambda images: matrix.reshape(_fits(matrix.shape, path, images, axes))
    elif head.startswith(b'PK\x03\x04'):
        yield lambda images: _copied(_source_npz(path, size, images, axes), path, entry)
    else:
        with open_matlab(path, _KEYS[2]) as (shape, dtype, blocks, begin):
            if isinstance(dtype, str):
                raise InputError(f'{path}: "{_KEYS[2]}" is no matrix of real numbers but {dtype} of shape {shape}')
            _check(shape, dtype, path, size, None, (2,))
            begin()
            yield lambda images: _copied(_Source(_fits(shape, path, images, (2,)), dtype, blocks), path, entry)


def open_matrix(path: Path, images: int | None = None, axes: Shape = (2,)) -> np.ndarray:
    """Opens a feature file and returns its array; see `opening_matrix`."""
    with opening_matrix(path, axes) as opened:
        return opened(images)


def grid_means(path: Path, grids: np.ndarray) -> np.ndarray:
    """The mean of each of some grids (N, L, D), read from `path`, over its locations, (N, D) float32: computed once and
    kept in the cache."""
    entry, shape = entry_folder(path), (grids.shape[0], grids.shape[2])
    if (mapped := _mapped(entry / _MEANS, shape)) is not None:
        return mapped
    source = _Source(shape, np.dtype(np.float32), lambda: (
        np.asarray(block, np.float32).mean(axis=1) for block in _sliced(grids).blocks()))
    return _copied(source, path, entry, _MEANS)


def _fits(shape: Shape, path: Path, images: int | None, axes: Shape) -> Shape:
    if len(shape) not in axes or min(shape) < 1:
        wanted = ' or '.join({2: 'a matrix, N x D', 3: 'grids, N x L x D'}[n] for n in axes)
        raise InputError(f'{path}: features are {wanted}; this is an array of shape {shape}')
    record, record_path = read_record(path), provenance_path(path)
    if record.get('shape', list(shape)) != list(shape):
        raise InputError(f'{record_path}: records the shape {record["shape"]}, but {path} has {list(shape)}; correct '
                         'the record or the file')
    if images is None:
        return shape
    transposed = shape[0] != images and images in shape[1:]
    if shape[0] < images:
        raise InputError(f'{path}: features of {shape[0]} images, {" x ".join(map(str, shape[1:]))} numbers each, but '
                         f'the captions go up to imgid {images - 1}, which needs {images}'
                         f'{" (it looks transposed)" if transposed else ""}')
    # A dataset may hold more rows than it has captions of. With as many columns as images that is ambiguous, unless
    # the record tells which axis is D.
    encoder = ENCODERS.get(base_encoder(record.get('encoder', '')))
    if transposed and 'shape' not in record and (encoder is None or encoder.dim != shape[-1]):
        raise InputError(f'{path}: it looks transposed, {shape[0]} rows for {images} images and an axis of {images}; '
                         f'write it with a row for each image, or if it has one, record {{"shape": {list(shape)}}} in '
                         f'{record_path}')
    return shape


def _mapped(path: pathlib.Path, shape: Shape | None = None) -> np.ndarray | None:
    """A copy in the cache, if it is sound, and of that shape where the shape is known."""
    try:
        matrix = _map(path)
    except (OSError, *ARCHIVE_ERRORS):
        return None
    axes = next((n for n, name in _COPIES.items() if name == path.name), 2)
    return matrix if _is_plain(matrix) and matrix.ndim == axes and shape in (None, matrix.shape) else None


def _map(path: Path) -> np.ndarray:
    with open_regular(path) as f:
        shape, dtype, fortran_order = npy_header(f)
        reject_if(dtype.hasobject, 'pickled')
        return np.memmap(path, dtype, 'r', f.tell(), shape, 'F' if fortran_order else 'C')


def _is_plain(matrix: np.ndarray) -> bool:
    return matrix.dtype in (np.float16, np.float32) and matrix.flags.c_contiguous


def _open_npy(path: Path, entry: pathlib.Path, size: int, images: int | None, axes: Shape) -> np.ndarray:
    matrix = None
    try:
        with open_regular(path) as f:
            shape, dtype, fortran_order = npy_header(f)
            _check(shape, dtype, path, size, images, axes)
            reject_if(f.tell() + dtype.itemsize * math.prod(shape) > size, 'it is cut short')
            source = _unmapped(path, f.tell(), shape, dtype, fortran_order)
        with contextlib.suppress(OSError):              # a mount that refuses mmap, such as FUSE with direct_io
            matrix = _map(path)
    except InputError:
        raise
    except (OSError, *ARCHIVE_ERRORS) as e:
        raise InputError(f'{path}: not a sound .npy file ({e})') from e
    if matrix is None or not _is_plain(matrix):
        mapped = _mapped(entry / _COPIES[len(shape)], shape)
        return mapped if mapped is not None else _copied(source if matrix is None else _sliced(matrix), path, entry)
    checked = entry / 'checked'
    if not checked.exists():
        collections.deque(_blocks(_sliced(matrix), matrix.dtype, path), maxlen=0)
        if prepare_entry(entry, path):
            with contextlib.suppress(OSError):          # a full disk costs the next start some seconds, no more
                checked.touch()
    return matrix


def _unmapped(path: Path, start: int, shape: Shape, dtype: np.dtype, fortran_order: bool) -> _Source:
    """An array that begins at byte `start` of a file which cannot be mapped."""
    def blocks() -> Iterator[np.ndarray]:
        rows = shape[0] if fortran_order else _rows_of(shape, dtype)
        try:
            with open_regular(path) as f:
                f.seek(start)
                for at in range(0, shape[0], rows):
                    count = min(rows, shape[0] - at)
                    yield np.fromfile(f, dtype, count * math.prod(shape[1:])).reshape(
                        (count, *shape[1:]), order='F' if fortran_order else 'C')
        except (OSError, ValueError) as e:              # ValueError: the file got shorter meanwhile
            raise InputError(f'{path}: cannot be read to its end ({e})') from e
    return _Source(shape, dtype, blocks)


def _source_npz(path: Path, size: int, images: int | None, axes: Shape) -> _Source:
    for key in (_KEYS[n] for n in axes):
        if found := npz_shapes(path, key).get(key):
            _check(*found, path, size, images, axes)
            return _sliced(read_npz(path, key)[key])
    raise InputError(f'{path}: holds no array "{" or ".join(_KEYS[n] for n in axes)}"')


def _sliced(matrix: np.ndarray) -> _Source:
    rows = _rows_of(matrix.shape, matrix.dtype)
    return _Source(matrix.shape, matrix.dtype,
                   lambda: (matrix[start:start + rows] for start in range(0, len(matrix), rows)))


def _rows_of(shape: Shape, dtype: np.dtype) -> int:     # in a block
    return max(1, _BLOCK // (math.prod(shape[1:]) * dtype.itemsize))


def _check(shape: Shape, dtype: np.dtype, path: Path, size: int, images: int | None, axes: Shape) -> None:
    """Checks a file's header before minutes and memory are spent on the values."""
    if dtype.kind not in 'fiu':
        raise InputError(f'{path}: features are real numbers, these are {dtype}')
    claimed = dtype.itemsize * math.prod(shape)
    if not plausible(claimed, size):
        raise InputError(f'{path}: claims {claimed:,} bytes of features in a file of {size:,}; it is damaged')
    _fits(shape, path, images, axes)


def _copied(source: _Source, path: Path, entry: pathlib.Path, name: str | None = None) -> np.ndarray:
    """Checks an array block by block on its way into the cache; where the cache cannot be written or mapped, into
    memory."""
    dtype, copy = np.dtype(np.float16 if source.dtype == np.float16 else np.float32), name or _COPIES[len(source.shape)]
    if prepare_entry(entry, path):
        with contextlib.suppress(OSError):
            # Written whole or not at all, after its values have been checked.
            with atomic_write(entry / copy, durable=False) as f:
                np.lib.format.write_array_header_1_0(
                    f, {'descr': dtype.str, 'fortran_order': False, 'shape': tuple(source.shape)})
                for block in _blocks(source, dtype, path):
                    block.tofile(f)
            return _map(entry / copy)
    try:
        matrix, at = np.empty(source.shape, dtype), 0
        for block in _blocks(source, dtype, path):
            matrix[at:at + len(block)] = block
            at += len(block)
    except MemoryError as e:
        raise InputError(f'{path}: its features do not fit into memory') from e
    matrix.flags.writeable = False
    return matrix


def _blocks(source: _Source, dtype: np.dtype, path: Path) -> Iterator[np.ndarray]:
    at = 0
    for block in source.blocks():
        with np.errstate(over='ignore'):                # a double too large for float32 is reported as what it becomes
            converted = np.ascontiguousarray(block, dtype)
        good = np.isfinite(converted)
        if not good.all():
            row, *place = np.argwhere(~good)[0].tolist()
            raise InputError(f'{path}: feature {", ".join(map(str, place))} of image {at + row} is '
                             f'{converted[~good][0]}; every value must be a finite number')
        yield converted
        at += len(block)


def provenance_path(features_path: Path) -> pathlib.Path:
    """The path of a feature file's provenance record: `<feature file>.json`."""
    return pathlib.Path(f'{os.fspath(features_path)}.json')


def read_record(features_path: Path) -> dict[str, Any]:
    """The provenance record of a feature file: `encoder` and `preprocessing`, or `shape`, or all three; empty where
    there is none. Raises InputError if it holds neither, or only one of `encoder` and `preprocessing`."""
    path = provenance_path(features_path)
    if not path.exists():
        return {}
    record = current_keys(read_json(path))
    keys = {*_MADE_BY, 'shape'} & record.keys() if isinstance(record, dict) else set()
    if not keys or (keys != {'shape'} and not all(isinstance(record.get(key), str) for key in _MADE_BY)):
        raise InputError(f'{path}: should name the "encoder" and the "preprocessing" that made the features')
    return record


def read_provenance(features_path: Path) -> dict[str, str] | None:
    """The recorded `encoder` and `preprocessing` of a feature file, or None; raises InputError as `read_record`."""
    record = read_record(features_path)
    return {key: record[key] for key in _MADE_BY} if 'encoder' in record else None


def record_provenance(features_path: Path, encoder: str, preprocessing: str, shape: Shape | None = None) -> None:
    """Records what made a feature file, and its shape where it is given, beside it. Other keys of the record are kept.
    Raises InputError if the record cannot be written."""
    path = provenance_path(features_path)
    before = current_keys(read_json(path)) if path.exists() else {}
    record = {**(before if isinstance(before, dict) else {}), 'encoder': encoder, 'preprocessing': preprocessing}
    try:
        write_json(path, record if shape is None else {**record, 'shape': list(shape)})
    except OSError as e:
        raise unwritable(path, e) from e
