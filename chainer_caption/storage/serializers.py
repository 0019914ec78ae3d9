"""What a Chainer object holds as arrays by name, and back: Chainer's serializers without their pickles.

Chainer's `load_npz` would run a pickle, and its serializer would write `None` as one.
"""
import hashlib
import warnings

import numpy as np
from chainer.serializers import DictionarySerializer, NpzDeserializer

# What stands in a file for None: an array that no parameter or counter has the shape of.
_NONE = np.zeros((0, 0, 0), np.int8)


class _Serializer(DictionarySerializer):
    """Chainer's serializer, but that None is written as an array and not as a pickle."""

    def __getitem__(self, key):
        return _Serializer(self.target, self.path + key.strip('/') + '/')

    def __call__(self, key, value):
        super().__call__(key, _NONE if value is None else value)
        return value


class _Deserializer(NpzDeserializer):

    def __getitem__(self, key):
        return _Deserializer(self.npz, self.path + key.strip('/') + '/', self.strict, self.ignore_names)

    def __call__(self, key, value):
        array = self.npz.get(self.path + key.lstrip('/'))
        if array is None and value is None:             # not made yet: Adam's state before the first update
            return None
        if array is not None and array.shape == _NONE.shape and array.dtype == _NONE.dtype:
            return None
        return super().__call__(key, value)


def to_arrays(target):
    """What a Chainer object serializes, as a dict of arrays on the CPU, None included."""
    serializer = _Serializer()
    serializer.save(target)
    return {name: np.asarray(array) for name, array in serializer.target.items()}


def from_arrays(arrays, target):
    """Loads what `to_arrays` made into an object of the same kind.

    Raises:
        KeyError, ValueError, TypeError, AttributeError, IndexError or Warning: It is of another kind.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('error')                  # Chainer goes on without what is not there
        _Deserializer(arrays).load(target)


def arrays_digest(arrays):
    """SHA-256 over the names, types, shapes and values of `{name: array}`, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f'{name} {array.dtype} {array.shape}'.encode())
        digest.update(np.ascontiguousarray(array))      # without a copy
    return digest.hexdigest()
