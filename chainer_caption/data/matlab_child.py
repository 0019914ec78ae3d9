"""Reader of arrays of a MATLAB or HDF5 file, in a child process (`storage/child.py`): the arguments PATH KEY …

For each KEY the first frame is JSON, `{"shape", "dtype"}`, or `{"shape", "kind"}` of what is no array of numbers; the
others, when they are wanted, are rows of the array as they are in memory."""
import json
import math
import os
from typing import Any

KIND = 'MATLAB file nor HDF5'

# The largest matrix in a file of a given size where memory cannot be limited; as in storage/archives.py.
_SMALL, _RATIO = 2 ** 26, 100
_BLOCK = 2 ** 24                # bytes that are read at a time


def read(child: Any, path: str, *keys: str) -> None:
    with open(path, 'rb') as f:
        head = f.read(1024)
    # A 7.3 file begins with 512 bytes of MATLAB's before HDF5's signature.
    open_matrix = _hdf5 if b'\x89HDF\r\n\x1a\n' in (head[:8], head[512:520]) else _mat
    for key in keys:
        described, rows = open_matrix(child, path, key)
        child.send(json.dumps(described).encode())
        if child.is_wanted():
            for block in rows():
                child.send(block)


def _mat(child: Any, path: str, key: str) -> tuple[dict, Any]:
    import numpy as np
    import scipy.io
    found: Any = scipy.io.whosmat(path)                 # a name may occur twice; SciPy reads the first
    shape, kind = next(((shape, kind) for name, shape, kind in found if name == key), (list[int](), ''))
    if not kind:
        there = ', '.join(name for name, *_ in found[:10]) or 'none'
        raise child.Refusal(f'holds no variable "{key}" (found: {there})')
    if kind not in ('single', 'double') or len(shape) != 2:
        return {'shape': shape, 'kind': kind}, None
    dtype = np.dtype('f4' if kind == 'single' else 'f8')

    def rows():
        claimed = dtype.itemsize * shape[0] * shape[1]
        _bound(child, path, 3 * claimed, claimed)       # as bytes, as an array, and as one of another type
        feats = scipy.io.loadmat(path, variable_names=[key])[key]
        if not isinstance(feats, np.ndarray) or feats.dtype.kind != 'f' or feats.shape != tuple(shape):
            raise child.Refusal(f'"{key}" is no full matrix of real numbers')
        feats = feats.T                                 # column-major D x N is row-major N x D: nothing moves
        for start, stop in _blocks(feats.shape, feats.itemsize):
            yield np.ascontiguousarray(feats[start:stop], dtype)
    return {'shape': shape[::-1], 'dtype': dtype.str}, rows


def _hdf5(child: Any, path: str, key: str) -> tuple[dict, Any]:
    import h5py
    import numpy as np
    f: Any = h5py.File(path)
    feats = f
    for part in key.split('/'):
        # A link, and an array's storage, may be in another file: any that the user can read.
        linked = isinstance(feats, h5py.Group) and isinstance(feats.get(part, getlink=True), h5py.HardLink)
        feats = feats[part] if linked else None
    if not isinstance(feats, h5py.Dataset) or feats.external or feats.is_virtual:
        raise child.Refusal(f'holds no array "{key}" (found: {", ".join(list(f)[:10]) or "none"})')
    shape = feats.shape or ()                           # an array that HDF5 calls empty has no shape at all
    if feats.dtype.kind not in 'fiu' or len(shape) not in (1, 2):
        return {'shape': shape, 'kind': str(feats.dtype)}, None

    def rows():
        _bound(child, path, 0, feats.dtype.itemsize * math.prod(shape))
        for start, stop in _blocks(shape, feats.dtype.itemsize):
            try:
                yield np.ascontiguousarray(feats[start:stop])
            except (OSError, RuntimeError, ValueError) as e:
                raise child.Refusal(f'damaged at image {start} or soon after ({e})') from e
    # HDF5 lists MATLAB's dimensions in reverse: D x N is read as N x D.
    return {'shape': shape, 'dtype': feats.dtype.str}, rows


def _blocks(shape: tuple, itemsize: int) -> Any:
    rows = max(1, _BLOCK // max(1, itemsize * math.prod(shape[1:])))
    return ((start, start + rows) for start in range(0, shape[0], rows))


def _bound(child: Any, path: str, memory: int, claimed: int) -> None:
    if not child.limit(memory, claimed) and claimed > _SMALL + _RATIO * os.path.getsize(path):
        raise child.Refusal(f'declares {claimed:,} bytes, more than its size can justify')
