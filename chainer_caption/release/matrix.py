"""The feature matrix of a release, whatever file holds it, as rows that can be memory-mapped.

Formats: MATLAB 5 to 7 (`feats`, D x N), MATLAB 7.3, which is HDF5 (`feats`, D x N as MATLAB sees it), `.npy` and `.npz`
(`feats`), both N x D. They are told apart by their first bytes, not by their names.
"""
import contextlib
import zipfile

import h5py
import numpy as np
import scipy.io

from chainer_caption.errors import InputError
from chainer_caption.files import ARCHIVE_ERRORS, npy_header, replacing, unreadable
from chainer_caption.release.cache import entry_folder, prepare_entry

KEY = 'feats'

# Rows checked and copied at a time: large enough to be quick, small enough to be no part of the memory that matters.
_ROWS = 2048

# What zlib can make of a byte at most; a header that promises more than its file could hold is damaged or a trap.
_INFLATION = 1040


def open_matrix(path, pictures=None):
    """Opens a feature matrix and checks that every value is a finite number.

    A row-major `.npy` of float32 or float16 is memory-mapped where it lies. Anything else is copied once into the
    cache and mapped from there; where the cache cannot be written, the matrix is held in memory.

    Args:
        path (str or os.PathLike): The file.
        pictures (int or None): The least number of pictures that it must hold.

    Returns:
        numpy.ndarray: (N, D), float16 where the file has that, float32 otherwise; read-only.

    Raises:
        InputError: The file is missing or damaged, holds no matrix, too few pictures, or a NaN or an infinity.
    """
    try:
        entry = entry_folder(path)
        with open(path, 'rb') as f:
            head = f.read(1024)
            size = f.seek(0, 2)
    except OSError as e:
        raise unreadable(path, e) from e
    if head.startswith(b'\x93NUMPY'):
        return _open_npy(path, entry, size, pictures)
    # The copy is written whole or not at all, after its values have been checked.
    copy = entry / 'features.npy'
    matrix = _mapped(copy)
    if matrix is None:
        matrix = _copied(_source(path, head, size, pictures), path, copy if prepare_entry(entry) else None)
    return _fits(matrix, path, pictures)


def _fits(matrix, path, pictures):
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f'{path}: features are a matrix, this is an array of shape {matrix.shape}')
    transposed = pictures is not None and matrix.shape[1] == pictures != len(matrix)
    if pictures is not None and (len(matrix) < pictures or transposed):
        hint = ' (it looks transposed)' if transposed else ''
        raise InputError(f'{path}: features of {len(matrix)} pictures, {matrix.shape[1]} numbers each, but the '
                         f'captions go up to imgid {pictures - 1}, which needs {pictures}{hint}')
    return matrix


def _mapped(path):
    try:
        return np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, *ARCHIVE_ERRORS):
        return None


def _open_npy(path, entry, size, pictures):
    try:
        with open(path, 'rb') as f:
            _check(*npy_header(f), path, size, pictures)
        matrix = np.load(path, mmap_mode='r', allow_pickle=False)
    except InputError:
        raise
    except (OSError, *ARCHIVE_ERRORS) as e:
        raise InputError(f'{path}: not a sound .npy file ({e})') from e
    if matrix.dtype not in (np.float16, np.float32) or not matrix.flags.c_contiguous:
        copy = entry / 'features.npy'
        mapped = _mapped(copy)
        return mapped if mapped is not None else _copied(matrix, path, copy if prepare_entry(entry) else None)
    checked = entry / 'checked'
    if not checked.exists():
        for start in range(0, len(matrix), _ROWS):
            _finite(matrix[start:start + _ROWS], start, path)
        if prepare_entry(entry):
            with contextlib.suppress(OSError):          # a full disk costs the next start some seconds, no more
                checked.touch()
    return matrix


def _source(path, head, size, pictures):
    """The matrix as something whose slices of rows are arrays (n, D)."""
    # A 7.3 file begins with 512 bytes of MATLAB's own before HDF5's signature.
    if b'\x89HDF\r\n\x1a\n' in (head[:8], head[512:520]):
        return _source_hdf5(path, size, pictures)
    if head.startswith(b'PK\x03\x04'):
        return _source_npz(path, size, pictures)
    return _source_mat(path, size, pictures)


def _source_mat(path, size, pictures):
    try:
        known = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
        if KEY not in known:
            raise InputError(f'{path}: holds no variable "{KEY}" (found: {", ".join(known) or "none"})')
        shape, kind = known[KEY]
        if kind not in ('single', 'double') or len(shape) != 2:
            raise InputError(f'{path}: "{KEY}" is no matrix of numbers but {kind} of shape {shape}')
        _plausible(shape, 4 if kind == 'single' else 8, size, path)
        # The shape is checked before minutes are spent on the values.
        _fits(np.broadcast_to(np.float32(0), shape[::-1]), path, pictures)
        feats = scipy.io.loadmat(path, variable_names=[KEY])[KEY]
    except InputError:
        raise
    except MemoryError as e:
        raise InputError(f'{path}: "{KEY}" does not fit into memory') from e
    except Exception as e:
        # SciPy's reader raises what the damage happens to make it raise: ValueError, TypeError, zlib.error, OSError …
        raise InputError(f'{path}: not a sound MATLAB file, or one cut short ({type(e).__name__}: {e})') from e
    if not isinstance(feats, np.ndarray) or np.iscomplexobj(feats):
        raise InputError(f'{path}: "{KEY}" is no full matrix of real numbers')
    # Column-major D x N is row-major N x D: nothing moves.
    return feats.T


def _source_hdf5(path, size, pictures):
    try:
        with h5py.File(path) as f:
            if not isinstance(f.get(KEY), h5py.Dataset):
                raise InputError(f'{path}: holds no array "{KEY}" (found: {", ".join(f) or "none"})')
            # An array that HDF5 calls empty has no shape at all.
            _check(f[KEY].shape or (), f[KEY].dtype, path, size, pictures)
    except (OSError, RuntimeError, ValueError, KeyError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f'{path}: not a sound MATLAB 7.3 (HDF5) file ({e})') from e
    # HDF5 lists MATLAB's dimensions in reverse: D x N is read as N x D. Opened for good: slices are read on demand.
    return h5py.File(path)[KEY]


def _source_npz(path, size, pictures):
    try:
        with zipfile.ZipFile(path) as archive:
            if KEY + '.npy' not in archive.namelist():
                raise InputError(f'{path}: holds no array "{KEY}"')
            with archive.open(KEY + '.npy') as f:
                _check(*npy_header(f), path, size, pictures)
        with np.load(path, allow_pickle=False) as archive:
            return archive[KEY]
    except InputError:
        raise
    except (OSError, *ARCHIVE_ERRORS) as e:
        raise InputError(f'{path}: not a sound .npz file ({e})') from e


def _check(shape, dtype, path, size, pictures):
    """Checks what a file says of its matrix, before minutes and memory are spent on the values."""
    if dtype.kind not in 'fiu':
        raise InputError(f'{path}: features are real numbers, these are {dtype}')
    _plausible(shape, dtype.itemsize, size, path)
    _fits(np.broadcast_to(np.float32(0), shape), path, pictures)


def _plausible(shape, itemsize, size, path):
    claimed = itemsize * int(np.prod(shape, dtype=object))
    if claimed > size * _INFLATION:
        raise InputError(f'{path}: claims {claimed:,} bytes of features in a file of {size:,}; it is damaged')


def _copied(source, path, copy):
    """Checks a matrix block by block on its way into the file `copy`; None, or a disk that is full, holds it in
    memory."""
    dtype = np.dtype(np.float16 if source.dtype == np.float16 else np.float32)
    if len(source.shape) != 2:
        raise InputError(f'{path}: features are a matrix, this is an array of shape {source.shape}')
    if copy is not None:
        try:
            with replacing(copy, durable=False) as f:
                np.lib.format.write_array_header_1_0(
                    f, {'descr': dtype.str, 'fortran_order': False, 'shape': tuple(source.shape)})
                for block in _blocks(source, dtype, path):
                    block.tofile(f)
            return np.load(copy, mmap_mode='r', allow_pickle=False)
        except OSError:
            pass
    matrix = np.empty(source.shape, dtype)
    at = 0
    for block in _blocks(source, dtype, path):
        matrix[at:at + len(block)] = block
        at += len(block)
    return matrix


def _blocks(source, dtype, path):
    for start in range(0, source.shape[0], _ROWS):
        try:
            with np.errstate(over='ignore'):            # a double too large for float32 is reported as what it becomes
                block = np.ascontiguousarray(source[start:start + _ROWS], dtype)
        except OSError as e:
            raise InputError(f'{path}: damaged at picture {start} or soon after ({e})') from e
        _finite(block, start, path)
        yield block


def _finite(block, start, path):
    good = np.isfinite(block)
    if not good.all():
        row, column = np.argwhere(~good)[0]
        raise InputError(f'{path}: feature {column} of picture {start + row} is {block[row, column]}; '
                         'every value must be a finite number')
