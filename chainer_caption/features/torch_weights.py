"""Reads VGG weights of torchvision and timm out of `.safetensors` files, under the names that our links have."""
import re

import safetensors

from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular, unreadable

# The fully connected layers: torchvision's names, and timm's, which has them as convolutions.
_FULLY_CONNECTED = {'classifier.0': 'fc6', 'classifier.3': 'fc7', 'pre_logits.fc1': 'fc6', 'pre_logits.fc2': 'fc7'}

_DTYPES = ('F16', 'F32', 'F64')


class TorchWeights:
    """The arrays of a `.safetensors` file, by Chainer's names.

    Both libraries number the entries of their `features`, activations included; what counts is their order, which is
    that of the convolutions' names.

    Args:
        path (str or os.PathLike): The file.
        convolutions (list of str): Names of the link's convolutions, in order.

    Attributes:
        shapes (dict): Name (`conv1_1/W` ...) to shape.

    Raises:
        InputError: The file cannot be read or is no sound safetensors file.
    """

    def __init__(self, path, convolutions):
        try:
            open_regular(path).close()
            self._file = safetensors.safe_open(path, framework='numpy')
        except OSError as e:
            raise unreadable(path, e) from e
        except safetensors.SafetensorError as e:
            raise InputError(f'{path}: not a sound .safetensors file ({e})') from e
        keys = set(self._file.keys())
        numbers = sorted(int(key.split('.')[1]) for key in keys if re.fullmatch(r'features\.[0-9]{1,4}\.weight', key))
        layers = {f'features.{n}': name for n, name in zip(numbers, convolutions, strict=False)}
        self._keys = {}
        for theirs, ours in {**layers, **_FULLY_CONNECTED}.items():
            for their_part, our_part in (('weight', 'W'), ('bias', 'b')):
                if f'{theirs}.{their_part}' in keys:
                    self._keys[f'{ours}/{our_part}'] = f'{theirs}.{their_part}'
        self.shapes = {}
        for name, key in self._keys.items():
            stored = self._file.get_slice(key)
            if stored.get_dtype() not in _DTYPES:
                raise InputError(f'{path}: {key} is stored as {stored.get_dtype()}; save it as F32')
            self.shapes[name] = tuple(stored.get_shape())

    def read(self, name):
        """Reads one array, as a numpy.ndarray."""
        return self._file.get_tensor(self._keys[name])
