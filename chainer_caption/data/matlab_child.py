"""Program that reads arrays of a MATLAB or HDF5 file; `matlab.py` starts it: matlab_child.py PATH KEY …

SciPy's and HDF5's readers are C code that trusts a file's headers: damaged bytes can crash them, or make them take any
amount of time and memory. That happens in this process alone, which has limits and imports nothing of the package.

It writes frames: a length as eight bytes, then as many bytes; a negative length is that of an error's text. For each
KEY the first is JSON, `{"shape", "dtype"}`, or `{"shape", "kind"}` of what is no array of numbers; the others, after a
byte on standard input, are rows of the array as they are in memory."""
import contextlib
import json
import math
import os
import struct
import sys
from typing import Any

# Limits beyond the matrix itself, in bytes and in seconds of processor time; and bytes of a matrix read in a second.
_MEMORY, _SECONDS, _BYTES_A_SECOND = 2 ** 30, 60, 2 ** 23
# The largest matrix in a file of a given size where memory cannot be limited; as in storage/archives.py.
_SMALL, _RATIO = 2 ** 26, 100
_BLOCK = 2 ** 24                # bytes that are read at a time


def main(path: str, *keys: str, stdin: Any, stdout: Any) -> None:
    def send(data: Any, sign: int = 1) -> None:
        view = memoryview(data).cast('B')
        stdout.write(struct.pack('<q', sign * len(view)))
        stdout.write(view)
        stdout.flush()

    try:
        with open(path, 'rb') as f:
            head = f.read(1024)
        # A 7.3 file begins with 512 bytes of MATLAB's before HDF5's signature.
        open_matrix = _hdf5 if b'\x89HDF\r\n\x1a\n' in (head[:8], head[512:520]) else _mat
        for key in keys:
            described, read = open_matrix(path, key)
            send(json.dumps(described).encode())
            if stdin.read(1):
                for block in read():
                    send(block)
    except MemoryError:
        send(b'it takes more memory than its size can justify', -1)
    except Exception as e:                              # damage: ValueError, TypeError, zlib.error, OSError ...
        reason = str(e) if isinstance(e, _Refusal) else \
            f'not a sound MATLAB file nor HDF5, or one cut short ({type(e).__name__}: {e})'
        send(reason[:1000].encode('utf-8', 'replace'), -1)


class _Refusal(Exception):
    """What the file holds is not read; the message says why."""


def _mat(path: str, key: str) -> tuple[dict, Any]:
    import numpy as np
    import scipy.io
    found: Any = scipy.io.whosmat(path)                 # a name may occur twice; SciPy reads the first
    shape, kind = next(((shape, kind) for name, shape, kind in found if name == key), (list[int](), ''))
    if not kind:
        raise _Refusal(f'holds no variable "{key}" (found: {", ".join(name for name, *_ in found[:10]) or "none"})')
    if kind not in ('single', 'double') or len(shape) != 2:
        return {'shape': shape, 'kind': kind}, None
    dtype = np.dtype('f4' if kind == 'single' else 'f8')

    def read():
        claimed = dtype.itemsize * shape[0] * shape[1]
        _bound(path, 3 * claimed, claimed)              # as bytes, as an array, and as one of another type
        feats = scipy.io.loadmat(path, variable_names=[key])[key]
        if not isinstance(feats, np.ndarray) or feats.dtype.kind != 'f' or feats.shape != tuple(shape):
            raise _Refusal(f'"{key}" is no full matrix of real numbers')
        feats = feats.T                                 # column-major D x N is row-major N x D: nothing moves
        for start, stop in _blocks(feats.shape, feats.itemsize):
            yield np.ascontiguousarray(feats[start:stop], dtype)
    return {'shape': shape[::-1], 'dtype': dtype.str}, read


def _hdf5(path: str, key: str) -> tuple[dict, Any]:
    import h5py
    import numpy as np
    f: Any = h5py.File(path)
    feats = f
    for part in key.split('/'):
        # A link, and an array's storage, may be in another file: any that the user can read.
        linked = isinstance(feats, h5py.Group) and isinstance(feats.get(part, getlink=True), h5py.HardLink)
        feats = feats[part] if linked else None
    if not isinstance(feats, h5py.Dataset) or feats.external or feats.is_virtual:
        raise _Refusal(f'holds no array "{key}" (found: {", ".join(list(f)[:10]) or "none"})')
    shape = feats.shape or ()                           # an array that HDF5 calls empty has no shape at all
    if feats.dtype.kind not in 'fiu' or len(shape) not in (1, 2):
        return {'shape': shape, 'kind': str(feats.dtype)}, None

    def read():
        _bound(path, 0, feats.dtype.itemsize * math.prod(shape))
        for start, stop in _blocks(shape, feats.dtype.itemsize):
            try:
                yield np.ascontiguousarray(feats[start:stop])
            except (OSError, RuntimeError, ValueError) as e:
                raise _Refusal(f'damaged at image {start} or soon after ({e})') from e
    # HDF5 lists MATLAB's dimensions in reverse: D x N is read as N x D.
    return {'shape': shape, 'dtype': feats.dtype.str}, read


def _blocks(shape: tuple, itemsize: int) -> Any:
    rows = max(1, _BLOCK // max(1, itemsize * math.prod(shape[1:])))
    return ((start, start + rows) for start in range(0, shape[0], rows))


def _bound(path: str, memory: int, claimed: int) -> None:
    if not limit(memory, claimed) and claimed > _SMALL + _RATIO * os.path.getsize(path):
        raise _Refusal(f'declares {claimed:,} bytes, more than its size can justify')


def limit(memory: int, data: int) -> bool:
    """Limits what this process may take from now on, beyond `memory` bytes and for reading `data` bytes. Returns
    whether memory is limited; Linux alone has what that needs."""
    try:
        import resource
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _lower(resource, resource.RLIMIT_CPU, int(used + _SECONDS + data / _BYTES_A_SECOND))
        with open('/proc/self/statm', encoding='ascii') as f:
            taken = int(f.read().split()[0]) * resource.getpagesize()
        _lower(resource, resource.RLIMIT_AS, taken + _MEMORY + memory)
    except (ImportError, AttributeError, OSError, ValueError):
        return False
    return True


def _lower(resource: Any, kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == '__main__':
    # No imports from this folder: names of its modules may be those of others.
    sys.path[:] = [folder for folder in sys.path if folder != os.path.dirname(os.path.abspath(__file__))]
    with contextlib.suppress(ImportError):
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit(0, 0)
    main(*sys.argv[1:], stdin=sys.stdin.buffer, stdout=sys.stdout.buffer)
