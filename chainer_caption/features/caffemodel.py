"""Reads the weights of a `.caffemodel`, a protobuf message, with no memory for anything else.

Protobuf libraries parse a message as a whole. For the 558 MB of VGG-19's arrays up to fc7, protobuf 7.36 took 1,065 MiB
(packed floats) to 1,316 MiB (declared as bytes) and 4 to 6 s on a busy core; this takes 401 MiB, of which 392 are the
largest array itself, and 2.8 s, reading every array included.

A message is a sequence of fields, each a number, a wire type and a value
(https://protobuf.dev/programming-guides/encoding/). This walks down to the offset of each layer's numbers; they are
read from there when they are needed. The field numbers are those of Caffe's `caffe.proto`.
"""
from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular, unreadable
from chainer_caption.storage.torch_files import StoredTensor

_VARINT, _BITS64, _BYTES, _BITS32 = 0, 1, 2, 5

# NetParameter: field of the layer list to the fields of name and blobs in its layers, for the V1LayerParameter of 2014
# and for LayerParameter.
_LAYER_LISTS = {2: (4, 6), 100: (1, 7)}

# BlobProto
_BLOB_DATA = {5: '<f4', 8: '<f8'}
_BLOB_SHAPE = 7                                         # BlobShape, whose field 1 is the packed dimensions
_BLOB_OLD_SHAPE = (1, 2, 3, 4)                          # num, channels, height, width

# Limits: fields in the whole file, dimensions of an array, bytes of a layer's name. No encoder has more.
_FIELDS, _DIMENSIONS, _NAME = 1_000_000, 32, 1000
_WINDOW = 4096


class _Bytes:
    """The bytes of a file by their offset. It is read and not mapped: see images.py."""

    def __init__(self, f: IO[bytes]) -> None:
        self._f, self._start, self._window = f, 0, b''
        self.size = os.fstat(f.fileno()).st_size
        self.fields = 0                                 # that have been read

    def __getitem__(self, at: int) -> int:
        if not self._start <= at < self._start + len(self._window):
            self._f.seek(at)
            self._start, self._window = at, self._f.read(_WINDOW)
        return self._window[at - self._start]

    def read(self, where: slice) -> bytes:
        self._f.seek(where.start)
        return self._f.read(where.stop - where.start)


def stored_array(path: Any, offset: int, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
    """A contiguous array that is still in its file, from `offset` in bytes on; its `read` reads it."""
    strides = tuple(math.prod(shape[i + 1:]) for i in range(len(shape)))
    return StoredTensor(path, offset, np.dtype(dtype), shape, strides)


def read_caffemodel(path: str | os.PathLike) -> dict[str, list[StoredTensor]]:
    """Finds the arrays of every layer, by its name, still in the file; as a rule weights and bias. Old models give
    every array four dimensions.

    Raises:
        InputError: The file cannot be read, is cut short or is no binary caffemodel.
    """
    layers = {}
    try:
        with open_regular(path) as f:
            data = _Bytes(f)
            for number, value in _fields(data, slice(0, data.size)):
                if number in _LAYER_LISTS and isinstance(value, slice):
                    name, blobs = _layer(path, data, value, *_LAYER_LISTS[number])
                    if blobs:
                        layers[name] = blobs
    except OSError as e:
        raise unreadable(path, e) from e
    except (ValueError, IndexError, TypeError, AttributeError) as e:        # a number where there should be a message …
        raise InputError(f'{path}: no caffemodel, or cut short (a download broken off?): {e}') from e
    if not layers:
        raise InputError(f'{path}: a caffemodel without any weights; is it the .caffemodel and not the .prototxt?')
    return layers


def _layer(path: Any, data: _Bytes, where: slice, name_field: int, blob_field: int) -> tuple[str, list[StoredTensor]]:
    name, blobs = '', []
    for number, value in _fields(data, where):
        if number == name_field:
            name = data.read(slice(value.start, min(value.stop, value.start + _NAME))).decode('utf-8')
        elif number == blob_field:
            blobs.append(_blob(path, data, value))
    return name, blobs


def _blob(path: Any, data: _Bytes, where: slice) -> StoredTensor:
    shape, old_shape, numbers = None, {}, None
    for number, value in _fields(data, where):
        if number in _BLOB_DATA:
            if not isinstance(value, slice) or numbers:
                raise ValueError('an array that is not in one piece')
            numbers = _BLOB_DATA[number], value
        elif number == _BLOB_SHAPE:
            dimensions = (d for n, dims in _fields(data, value) if n == 1 for d in _dimensions(data, dims))
            shape = tuple(itertools.islice(dimensions, _DIMENSIONS))
        elif number in _BLOB_OLD_SHAPE:
            old_shape[number] = value
    dtype, value = numbers or ('<f4', slice(0, 0))
    if shape is None:
        shape = tuple(old_shape.get(number, 1) for number in _BLOB_OLD_SHAPE)
    if int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize != value.stop - value.start:
        raise ValueError(f'{value.stop - value.start} bytes for an array of shape {shape}')
    return stored_array(path, value.start, dtype, shape)


def _dimensions(data: _Bytes, value: Any) -> Iterator[int]:
    if isinstance(value, int):                          # not packed: one of several fields
        yield value
        return
    at = value.start
    while at < value.stop:
        dimension, at = _varint(data, at)
        yield dimension


def _fields(data: _Bytes, where: slice) -> Iterator[tuple[int, Any]]:
    """Each field's number and value: an int, the slice of the file that holds it, or None for a type not used here."""
    at, end = where.start, where.stop
    while at < end:
        data.fields += 1
        if data.fields > _FIELDS:
            raise ValueError('too many fields')
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        value: Any = None
        if wire_type == _VARINT:
            value, at = _varint(data, at)
        elif wire_type == _BYTES:
            length, at = _varint(data, at)
            value = slice(at, at + length)
            at += length
        elif wire_type in (_BITS32, _BITS64):
            at += 4 if wire_type == _BITS32 else 8
        else:
            raise ValueError(f'a field of unknown type at byte {at}')
        if at > end:
            raise ValueError(f'a field of {at} bytes where there are {end}')
        yield number, value


def _varint(data: _Bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:                                   # ten bytes hold 64 bits
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError(f'a number without end at byte {at}')
