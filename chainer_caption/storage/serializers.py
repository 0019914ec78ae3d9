"""The state of Chainer objects as arrays by name, and back: Chainer's serializers without pickles.

Chainer's `load_npz` would execute a pickle, and its serializer writes `None` as one."""
import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from chainer.serializers import DictionarySerializer, NpzDeserializer

_NONE = np.zeros((0, 0, 0), np.int8)    # stands for None in a file, of a shape that no parameter or counter has


class _Serializer(DictionarySerializer):
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
        # None is not made yet, as Adam's state before the first update, or stored as such.
        if (array is None and value is None) or \
                (array is not None and array.shape == _NONE.shape and array.dtype == _NONE.dtype):
            return None
        return super().__call__(key, value)


def to_arrays(target: Any) -> dict[str, np.ndarray]:
    """The serialized state of a Chainer object as arrays on the CPU, None included."""
    serializer = _Serializer()
    serializer.save(target)
    return {name: np.asarray(array) for name, array in serializer.target.items()}


def from_arrays(arrays: Mapping[str, np.ndarray], target: Any) -> None:
    """Loads the result of `to_arrays` into an object. If it is of another kind, KeyError, ValueError, TypeError,
    AttributeError, IndexError or Warning is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter('error')                  # Chainer only warns of missing arrays
        _Deserializer(arrays).load(target)


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the names, dtypes, shapes and values of `{name: array}`, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f'{name} {array.dtype} {array.shape}'.encode())
        digest.update(np.ascontiguousarray(array))      # type: ignore[arg-type]
    return digest.hexdigest()
