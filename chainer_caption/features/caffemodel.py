"""Reads the weights of a `.caffemodel`, a protobuf message, with no memory for anything else: 401 MiB and 2.8 s for the
558 MB of VGG-19 up to fc7, where protobuf 7.36 took 1,065 to 1,316 MiB and 4 to 6 s. A message is a sequence of fields,
each a number (as in Caffe's `caffe.proto`), a wire type and a value; see protobuf.dev/programming-guides/encoding. This
walks down to the offset of each layer's numbers; they are read from there when they are needed."""
from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.files import Path, open_regular, unreadable
from chainer_caption.storage.torch_files import StoredTensor

_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}            # wire types; those of fixed size, and it

# NetParameter: field of the layer list to the fields of name and blobs in its layers, for the V1LayerParameter of 2014
# and for LayerParameter.
_LAYER_LISTS = {2: (4, 6), 100: (1, 7)}
# BlobProto: data; BlobShape, whose field 1 is the packed dimensions; num, channels, height and width of old models.
_BLOB_DATA, _BLOB_SHAPE, _BLOB_OLD_SHAPE = {5: '<f4', 8: '<f8'}, 7, (1, 2, 3, 4)

# Limits: fields in the whole file, dimensions of an array, bytes of a layer's name. No encoder has more.
_FIELDS, _DIMENSIONS, _NAME, _WINDOW = 1_000_000, 32, 1000, 4096


class _Bytes:
    """The bytes of a file by their offset. It is read and not mapped: see images.py."""

    def __init__(self, f: IO[bytes]) -> None:
        self._f, self._start, self._window = f, 0, b''
        self.size, self.fields = os.fstat(f.fileno()).st_size, 0            # fields that have been read

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


def read_caffemodel(path: Path) -> dict[str, list[StoredTensor]]:
    """Finds the arrays of every layer, by its name, still in the file; as a rule weights and bias. Old models give
    every array four dimensions. InputError is raised for a file that cannot be read, is cut short or no caffemodel."""
    layers = {}
    try:
        with open_regular(path) as f:
            data = _Bytes(f)
            for number, value in _fields(data, slice(0, data.size)):
                if number in _LAYER_LISTS and isinstance(value, slice):
                    name, blobs = _layer(path, data, value, *_LAYER_LISTS[number])
                    layers.update({name: blobs} if blobs else {})
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
    shape = tuple(old_shape.get(number, 1) for number in _BLOB_OLD_SHAPE) if shape is None else shape
    if math.prod(shape) * np.dtype(dtype).itemsize != value.stop - value.start:
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
        elif wire_type in _FIXED:
            at += _FIXED[wire_type]
        else:
            raise ValueError(f'a field of unknown type at byte {at}')
        if at > end:
            raise ValueError(f'a field of {at} bytes where there are {end}')
        yield number, value


def _varint(data: _Bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):                                 # ten bytes hold 64 bits
        value |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            return value, at + i + 1
    raise ValueError(f'a number without end at byte {at + 10}')
