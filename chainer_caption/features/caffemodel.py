"""Reads the weights out of a `.caffemodel`, a protobuf message, without taking memory for anything else.

Protobuf libraries parse a message as a whole. For the 558 MB of VGG-19's arrays up to fc7, protobuf 7.36 took 1,065 MiB
(packed floats) to 1,316 MiB (the same declared as bytes) and 4 to 6 s, on a busy core; this takes 401 MiB, of which 392
are the largest array itself, and 2.8 s, the reading of every array included.

The format itself is small (https://protobuf.dev/programming-guides/encoding/): a message is a row of fields, each a
number, a wire type and a value. So this walks down to where each layer's numbers lie in the file, and `Blob.read`
fetches them from there. The field numbers are those of Caffe's `caffe.proto`.
"""
import dataclasses
import itertools
import mmap

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular, unreadable

_VARINT, _BITS64, _BYTES, _BITS32 = 0, 1, 2, 5

# NetParameter: (field of the layer list, and in its layers the fields of name and blobs), for the list of
# V1LayerParameter that models of 2014 have and for that of LayerParameter since.
_LAYER_LISTS = {2: (4, 6), 100: (1, 7)}

# BlobProto
_BLOB_DATA = {5: '<f4', 8: '<f8'}
_BLOB_SHAPE = 7                                         # BlobShape, whose field 1 is the packed dimensions
_BLOB_OLD_SHAPE = (1, 2, 3, 4)                          # num, channels, height, width


# No encoder has more fields than this in all its layers, dimensions in an array, or bytes in a layer's name.
_FIELDS, _DIMENSIONS, _NAME = 1_000_000, 32, 1000


class _Data(mmap.mmap):
    fields = 0                                          # how many of them have been read


@dataclasses.dataclass(frozen=True)
class Blob:
    """One array of a layer, still in its file.

    Attributes:
        path (str): The file.
        shape (tuple of int): Its shape; old models give every array four dimensions.
        dtype (str): Of its numbers.
        offset (int): Where in the file they begin, in bytes.
    """

    path: str
    shape: tuple
    dtype: str
    offset: int

    def read(self):
        """Reads the array: a numpy.ndarray of `shape` and `dtype`."""
        count = int(np.prod(self.shape))
        return np.fromfile(self.path, self.dtype, count, offset=self.offset).reshape(self.shape)


def read_caffemodel(path):
    """Finds the weights of every layer.

    Args:
        path (str or os.PathLike): A `.caffemodel` of Caffe's binary format.

    Returns:
        dict: Layer name to its list of `Blob`, as a rule weights and bias; layers without any are left out.

    Raises:
        InputError: The file cannot be read, is cut short or is no caffemodel.
    """
    layers = {}
    try:
        with open_regular(path) as f, _Data(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, value in _fields(data, slice(0, len(data))):
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


def _layer(path, data, where, name_field, blob_field):
    name, blobs = '', []
    for number, value in _fields(data, where):
        if number == name_field:
            name = data[value.start:min(value.stop, value.start + _NAME)].decode('utf-8')
        elif number == blob_field:
            blobs.append(_blob(path, data, value))
    return name, blobs


def _blob(path, data, where):
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
    return Blob(path, shape, dtype, value.start)


def _dimensions(data, value):
    if isinstance(value, int):                          # not packed: one of several fields
        yield value
        return
    at = value.start
    while at < value.stop:
        dimension, at = _varint(data, at)
        yield dimension


def _fields(data, where):
    # Each field's number with its value: an int, the slice of `data` that holds it, or None for what no field that is
    # wanted here has.
    at, end = where.start, where.stop
    while at < end:
        data.fields += 1
        if data.fields > _FIELDS:
            raise ValueError('too many fields')
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, at = _varint(data, at)
        elif wire_type == _BYTES:
            length, at = _varint(data, at)
            value = slice(at, at + length)
            at += length
        elif wire_type in (_BITS32, _BITS64):
            value = None
            at += 4 if wire_type == _BITS32 else 8
        else:
            raise ValueError(f'a field of unknown type at byte {at}')
        if at > end:
            raise ValueError(f'a field of {at} bytes where there are {end}')
        yield number, value


def _varint(data, at):
    value = shift = 0
    while shift < 70:                                   # ten bytes hold 64 bits
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError(f'a number without end at byte {at}')
