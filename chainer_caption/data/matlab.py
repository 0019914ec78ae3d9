"""MATLAB and HDF5 files, read by a child process (`matlab_child.py`), which damaged bytes may crash."""
import contextlib
import json
import math
import os
import pathlib
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import plausible
from chainer_caption.storage.files import Path

_CHILD = pathlib.Path(__file__).with_name('matlab_child.py')
_FRAME = 2 ** 30                # bytes of a frame; a row of a matrix may be longer than the child's blocks
_PIPE = 2 ** 20                 # bytes that the child may write ahead; the most that Linux gives to any user
_Blocks = Callable[[], Iterator[np.ndarray]]


@contextlib.contextmanager
def open_matlab(path: Path, key: str) -> Iterator[tuple[tuple, np.dtype | str, _Blocks, Callable[[], None]]]:
    """Opens the matrix `key` in a MATLAB file of any version.

    Yields the shape (rows, columns), where MATLAB's D x N is N x D; the dtype, or a str that tells what it is if it is
    no matrix of numbers; a function that returns an iterator over blocks of rows, from the first each time; and one
    that lets the child begin to read, so that the wait is shorter later. Raises InputError if the file is damaged, or
    does not hold the matrix."""
    def begin() -> None:
        with contextlib.suppress(BrokenPipeError):      # the next read from the child finds out why it has ended
            if not child.stdin.closed:
                child.stdin.write(b'\n')
                child.stdin.close()

    def blocks() -> Iterator[np.ndarray]:
        if unread:
            begin()
            yield from _rows(unread.pop(), path, shape, dtype)
            return
        with open_matlab(path, key) as (_, _, again, _):        # a child reads its file once
            yield from again()

    with _reading(path, key) as child:
        unread = [child]
        shape, dtype = _described(child, path)
        yield shape, dtype, blocks, begin


def read_hdf5(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads arrays of one or two dimensions of an HDF5 file by their names with those of their groups, `'group/array'`.
    Raises InputError if the file is damaged, or does not hold them."""
    arrays = {}
    with _reading(path, *keys) as child:
        for key in keys:
            shape, dtype = _described(child, path)
            if isinstance(dtype, str) or not plausible(math.prod(shape) * dtype.itemsize, os.path.getsize(path)):
                raise InputError(f'{path}: "{key}" is no array of numbers that can be in this file, but {dtype} of '
                                 f'shape {shape}')
            with contextlib.suppress(BrokenPipeError):  # as in `open_matlab`
                child.stdin.write(b'\n')
                child.stdin.flush()
            arrays[key] = np.concatenate([np.empty((0, *shape[1:]), dtype), *_rows(child, path, shape, dtype)])
    return arrays


@contextlib.contextmanager
def _reading(path: Path, *keys: str) -> Iterator[Any]:
    # The child is killed afterwards. HDF5 would load any filter that a file names from the plugin folder.
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1', 'HDF5_PLUGIN_PRELOAD': '::'}
    child = start([os.path.abspath(path), *keys], environment)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()


def start(arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
    child: Any = subprocess.Popen([sys.executable, os.fspath(_CHILD), *arguments], env=environment,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with contextlib.suppress(ImportError, AttributeError, OSError):     # Linux alone has it; elsewhere it is slower
        import fcntl
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _PIPE)
    return child


def _described(child: Any, path: Path) -> tuple[tuple, np.dtype | str]:
    described = json.loads(_frame(child, path))
    return tuple(described['shape']), described.get('kind') or np.dtype(described['dtype'])


def _rows(child: Any, path: Path, shape: tuple, dtype: Any) -> Iterator[np.ndarray]:
    at = 0
    while at < shape[0]:
        block = np.frombuffer(_frame(child, path), dtype).reshape(-1, *shape[1:])
        yield block
        at += len(block)


def _frame(child: Any, path: Path) -> bytes:
    head = child.stdout.read(8)
    length = struct.unpack('<q', head)[0] if len(head) == 8 else 0
    data = child.stdout.read(min(abs(length), _FRAME))
    if length < 0:
        raise InputError(f'{path}: {data.decode("utf-8", "replace")}')
    if not length or len(data) < length:
        status = child.wait()
        slow = -status == getattr(signal, 'SIGXCPU', None)
        reason = 'takes too long to read' if slow else f'makes its reader fail ({status})'
        raise InputError(f'{path}: not a sound MATLAB file nor HDF5: {reason}')
    return data
