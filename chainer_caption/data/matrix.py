"""The feature matrix of a dataset, whatever file holds it, as rows that can be memory-mapped.

Formats: MATLAB 5 to 7 (`feats`, D x N), MATLAB 7.3, which is HDF5 (`feats`, D x N as MATLAB sees it), `.npy` and `.npz`
(`feats`), both N x D. They are told apart by their first bytes, not by their names.
"""
import collections
import contextlib
import math

import numpy as np

from chainer_caption.data.matlab import open_matlab
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.storage.archives import ARCHIVE_ERRORS, npy_header, npz_shapes, plausible, read_npz
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import atomic_write, open_regular, unreadable

KEY = 'feats'

# Of a matrix, in its entry of the cache.
_COPY = 'features.npy'

# Bytes checked and copied at a time, more or less: large enough to be quick, small enough to be no part of the memory
# that matters.
_BLOCK = 2 ** 25

# A matrix on its way: `blocks()` gives an iterator over its rows.
_Source = collections.namedtuple('_Source', 'shape dtype blocks')


@contextlib.contextmanager
def opening_matrix(path):
    """Opens a feature matrix and checks that every value is a finite number.

    A row-major `.npy` of float32 or float16 is memory-mapped where it lies. Anything else is copied once into the
    cache and mapped from there; where the cache cannot be written, the matrix is held in memory.

    Args:
        path (str or os.PathLike): The file.

    Yields:
        function: Takes the least number of images that the matrix must hold, or None, and gives the matrix,
        (N, D), float16 where the file has that, float32 otherwise; read-only. A MATLAB file is being read by another
        process meanwhile: what else there is to be opened had best be opened before.

    Raises:
        InputError: The file is missing or damaged, holds no matrix, too few images, or a NaN or an infinity.
    """
    try:
        entry = entry_folder(path)
        with open_regular(path) as f:
            head = f.read(6)
            size = f.seek(0, 2)
    except OSError as e:
        raise unreadable(path, e) from e
    if head == b'\x93NUMPY':
        yield lambda images: _open_npy(path, entry, size, images)
        return
    matrix = _mapped(entry / _COPY)
    if matrix is not None:
        yield lambda images: _fitting(matrix, path, images)
    elif head.startswith(b'PK\x03\x04'):
        yield lambda images: _copied(_source_npz(path, size, images), path, entry)
    else:
        with open_matlab(path, KEY) as (shape, dtype, blocks, begin):
            if isinstance(dtype, str):
                raise InputError(f'{path}: "{KEY}" is no matrix of real numbers but {dtype} of shape {shape}')
            _check(shape, dtype, path, size)
            begin()
            yield lambda images: _copied(_Source(_fits(shape, path, images), dtype, blocks), path, entry)


def open_matrix(path, images=None):
    """Opens a feature matrix; see `opening_matrix`.

    Args:
        path (str or os.PathLike): The file.
        images (int or None): The least number of images that it must hold.

    Returns:
        numpy.ndarray: The matrix.
    """
    with opening_matrix(path) as opened:
        return opened(images)


def _fitting(matrix, path, images):
    _fits(matrix.shape, path, images)
    return matrix


def _fits(shape, path, images):
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f'{path}: features are a matrix, this is an array of shape {shape}')
    if images is None:
        return shape
    # With as many columns as there are images it may be D x N. Where there are rows enough, that is a coincidence
    # (datasets may hold more rows than they have captions of) unless there are as many as an encoder gives numbers.
    transposed = shape[1] == images != shape[0]
    if shape[0] < images or (transposed and shape[0] in {encoder.dim for encoder in ENCODERS.values()}):
        hint = ' (it looks transposed)' if transposed else ''
        raise InputError(f'{path}: features of {shape[0]} images, {shape[1]} numbers each, but the '
                         f'captions go up to imgid {images - 1}, which needs {images}{hint}')
    return shape


def _mapped(path, shape=None):
    """A copy in the cache, if it is a sound one, and of that shape where it is known."""
    try:
        matrix = _map(path)
    except (OSError, *ARCHIVE_ERRORS):
        return None
    return matrix if _is_plain(matrix) and matrix.ndim == 2 and shape in (None, matrix.shape) else None


def _map(path):
    with open_regular(path) as f:
        shape, dtype, fortran_order = npy_header(f)
        if dtype.hasobject:
            raise ValueError('pickled')
        return np.memmap(path, dtype, 'r', f.tell(), shape, 'F' if fortran_order else 'C')


def _is_plain(matrix):
    return matrix.dtype in (np.float16, np.float32) and matrix.flags.c_contiguous


def _open_npy(path, entry, size, images):
    try:
        with open_regular(path) as f:
            shape, dtype, _ = npy_header(f)
            _check(shape, dtype, path, size, images)
        matrix = _map(path)
    except InputError:
        raise
    except (OSError, *ARCHIVE_ERRORS) as e:
        raise InputError(f'{path}: not a sound .npy file ({e})') from e
    source = _sliced(matrix)
    if not _is_plain(matrix):
        mapped = _mapped(entry / _COPY, shape)
        return mapped if mapped is not None else _copied(source, path, entry)
    checked = entry / 'checked'
    if not checked.exists():
        collections.deque(_blocks(source, matrix.dtype, path), maxlen=0)
        if prepare_entry(entry, path):
            with contextlib.suppress(OSError):          # a full disk costs the next start some seconds, no more
                checked.touch()
    return matrix


def _source_npz(path, size, images):
    shapes = npz_shapes(path, KEY)
    if KEY not in shapes:
        raise InputError(f'{path}: holds no array "{KEY}"')
    _check(*shapes[KEY], path, size, images)
    return _sliced(read_npz(path, KEY)[KEY])


def _sliced(matrix):
    rows = max(1, _BLOCK // (matrix.shape[1] * matrix.itemsize))
    return _Source(matrix.shape, matrix.dtype,
                   lambda: (matrix[start:start + rows] for start in range(0, len(matrix), rows)))


def _check(shape, dtype, path, size, images=None):
    """Checks what a file says of its matrix, before minutes and memory are spent on the values."""
    if dtype.kind not in 'fiu':
        raise InputError(f'{path}: features are real numbers, these are {dtype}')
    claimed = dtype.itemsize * math.prod(shape)
    if not plausible(claimed, size):
        raise InputError(f'{path}: claims {claimed:,} bytes of features in a file of {size:,}; it is damaged')
    _fits(shape, path, images)


def _copied(source, path, entry):
    """Checks a matrix block by block on its way into the cache; a cache that cannot be written, or a disk that is full,
    leaves it in memory."""
    dtype = np.dtype(np.float16 if source.dtype == np.float16 else np.float32)
    if prepare_entry(entry, path):
        try:
            # Written whole or not at all, after its values have been checked.
            with atomic_write(entry / _COPY, durable=False) as f:
                np.lib.format.write_array_header_1_0(
                    f, {'descr': dtype.str, 'fortran_order': False, 'shape': tuple(source.shape)})
                for block in _blocks(source, dtype, path):
                    block.tofile(f)
            return _map(entry / _COPY)
        except OSError:
            pass
    try:
        matrix = np.empty(source.shape, dtype)
        at = 0
        for block in _blocks(source, dtype, path):
            matrix[at:at + len(block)] = block
            at += len(block)
        return matrix
    except MemoryError as e:
        raise InputError(f'{path}: "{KEY}" does not fit into memory') from e


def _blocks(source, dtype, path):
    at = 0
    for block in source.blocks():
        with np.errstate(over='ignore'):                # a double too large for float32 is reported as what it becomes
            converted = np.ascontiguousarray(block, dtype)
        _finite(converted, at, path)
        yield converted
        at += len(block)


def _finite(block, start, path):
    good = np.isfinite(block)
    if not good.all():
        row, column = np.argwhere(~good)[0]
        raise InputError(f'{path}: feature {column} of image {start + row} is {block[row, column]}; '
                         'every value must be a finite number')
