"""MATLAB and HDF5 files, read in a child process (`matlab_child.py`), which damaged bytes may crash."""
import contextlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from chainer_caption.data.matlab_child import KIND
from chainer_caption.errors import InputError
from chainer_caption.storage.archives import plausible
from chainer_caption.storage.children import Reading, reading
from chainer_caption.storage.files import Path

_READER = pathlib.Path(__file__).with_name('matlab_child.py')
_Blocks = Callable[[], Iterator[np.ndarray]]


@contextlib.contextmanager
def open_matlab(path: Path, key: str) -> Iterator[tuple[tuple, np.dtype | str, _Blocks, Callable[[], None]]]:
    """Opens the matrix `key` in a MATLAB file of any version.

    Yields the shape (rows, columns), where MATLAB's D x N is N x D; the dtype, or a str that tells what it is if it is
    no matrix of numbers; a function that returns an iterator over blocks of rows, from the first each time; and one
    that lets the child begin to read, so that the wait is shorter later. Raises InputError if the file is damaged, or
    does not hold the matrix."""
    def begin() -> None:
        child.go_on(last=True)

    def blocks() -> Iterator[np.ndarray]:
        if unread:
            begin()
            yield from _rows(unread.pop(), shape, dtype)
            return
        with open_matlab(path, key) as (_, _, again, _):        # a child reads its file once
            yield from again()

    with reading(path, KIND, _READER, key) as child:
        unread = [child]
        shape, dtype = _described(child)
        yield shape, dtype, blocks, begin


def read_hdf5(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads arrays of one or two dimensions of an HDF5 file by their names with those of their groups, `'group/array'`.
    Raises InputError if the file is damaged, or does not hold them."""
    arrays = {}
    with reading(path, KIND, _READER, *keys) as child:
        for key in keys:
            shape, dtype = _described(child)
            if isinstance(dtype, str) or not plausible(math.prod(shape) * dtype.itemsize, os.path.getsize(path)):
                raise InputError(f'{path}: "{key}" is no array of numbers that can be in this file, but {dtype} of '
                                 f'shape {shape}')
            child.go_on()
            arrays[key] = np.concatenate([np.empty((0, *shape[1:]), dtype), *_rows(child, shape, dtype)])
    return arrays


def _described(child: Reading) -> tuple[tuple, np.dtype | str]:
    described = json.loads(child.frame())
    return tuple(described['shape']), described.get('kind') or np.dtype(described['dtype'])


def _rows(child: Reading, shape: tuple, dtype: Any) -> Iterator[np.ndarray]:
    at = 0
    while at < shape[0]:
        block = np.frombuffer(child.frame(), dtype).reshape(-1, *shape[1:])
        yield block
        at += len(block)
