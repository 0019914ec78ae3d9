"""Weights of torchvision and timm, out of `.pth` and `.safetensors` files, under the names that our links have."""
import os
import re

import numpy as np
import safetensors

from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular, unreadable
from chainer_caption.storage.torch_files import read_state_dict

#: How the names of such files end.
SUFFIXES = '.pth', '.pt', '.safetensors'

# The fully connected layers of VGG: torchvision's names, and timm's, which has them as convolutions.
_FULLY_CONNECTED = {'classifier.0': 'fc6', 'classifier.3': 'fc7', 'pre_logits.fc1': 'fc6', 'pre_logits.fc2': 'fc7'}

# What batch normalisation has in a state dict: scale, shift, mean and variance.
_NORM = 'weight', 'bias', 'running_mean', 'running_var'

# By the names that NumPy has for them and those of safetensors.
_DTYPES = 'float16', 'float32', 'float64', 'F16', 'F32', 'F64'


class TorchWeights:
    """The arrays of a `.pth` or `.safetensors` file, by Chainer's names.

    Links that are `encoders.folded.Folded` say which layer is which, and get each convolution with its batch
    normalisation folded into it. `encoders.others.ResNet101` says which array is which.

    Of VGG, both libraries number the entries of their `features`, activations included; what counts is their order,
    which is that of the convolutions' names.

    Args:
        path (str or os.PathLike): The file.
        link (chainer.Chain): Whose names they get.
        wanted (dict): Name to shape of all that the link has.

    Attributes:
        shapes (dict): Name (`conv1_1/W` ...) to shape.

    Raises:
        InputError: The file cannot be read or is not sound.
    """

    def __init__(self, path, link, wanted):
        self._tensors = _open_safetensors(path) if _suffix(path) == '.safetensors' else read_state_dict(path)
        self._link = link
        self._layers = getattr(link, 'torch_layers', {})
        self._keys = self._keys_of(wanted)
        self.shapes = {}
        for name, keys in self._keys.items():
            found = [self._tensors[key] for key in keys if key in self._tensors]
            for key, tensor in zip(keys, found, strict=False):
                if str(tensor.dtype) not in _DTYPES:
                    raise InputError(f'{path}: {key} is stored as {tensor.dtype}; save it as float32')
            # Arrays of one normalisation that differ in shape are as good as none.
            if len(found) == len(keys) and len({tensor.shape for tensor in found}) <= 1:
                self.shapes[name] = found[0].shape if found else wanted[name]

    def _keys_of(self, wanted):
        """What each of the link's arrays is made of; nothing makes zeros."""
        if self._layers:
            return {f'{layer}/{part}': keys for layer, (theirs, norm) in self._layers.items() for part, keys in (
                ('W', [f'{theirs}.weight']), ('b', [f'{norm}.{part}' for part in _NORM]))}
        if hasattr(self._link, 'torch_name'):
            return {name: [key for key in [self._link.torch_name(name)] if key] for name in wanted}
        return {f'{ours}/{part}': [f'{theirs}.{of_torch}'] for ours, theirs in _vgg_layers(
            self._tensors, self._link).items() for part, of_torch in (('W', 'weight'), ('b', 'bias'))}

    def read(self, name):
        """Reads one array, as a numpy.ndarray."""
        layer, part = name.rsplit('/', 1)
        if layer not in self._layers:
            if not self._keys[name]:
                return np.zeros(self.shapes[name], np.int8)
            array = self._tensors[self._keys[name][0]].read()
            if part != 'avg_var':
                return array
            # Chainer's link will add more to it than what it was trained with.
            return array.astype(np.float64) - (self._link.bn1.eps - self._link.epsilon)
        theirs, norm = self._layers[layer]
        gamma, beta, mean, variance = (self._tensors[f'{norm}.{part}'].read().astype(np.float64) for part in _NORM)
        with np.errstate(all='raise'):                  # a variance can only be damaged where this fails
            scale = gamma / np.sqrt(variance + self._link.epsilon)
        if part == 'b':
            return beta - mean * scale
        return self._tensors[f'{theirs}.weight'].read() * scale[:, None, None, None]


def _suffix(path):
    return os.path.splitext(path)[1].lower()


def _vgg_layers(keys, link):
    numbers = sorted(int(key.split('.')[1]) for key in keys if re.fullmatch(r'features\.[0-9]{1,4}\.weight', key))
    convolutions = sorted(child.name for child in link.children() if child.name.startswith('conv'))
    layers = {ours: f'features.{n}' for n, ours in zip(numbers, convolutions, strict=False)}
    layers.update((ours, theirs) for theirs, ours in _FULLY_CONNECTED.items() if f'{theirs}.weight' in keys)
    return layers


def _open_safetensors(path):
    try:
        open_regular(path).close()
        f = safetensors.safe_open(path, framework='numpy')
        return {key: _Slice(f, key) for key in f.keys()}  # noqa: SIM118 (it is no dict)
    except OSError as e:
        raise unreadable(path, e) from e
    except safetensors.SafetensorError as e:
        raise InputError(f'{path}: not a sound .safetensors file ({e})') from e


class _Slice:
    # An array that is still in its file, as `StoredTensor` is one.
    def __init__(self, f, key):
        stored = f.get_slice(key)
        self._file, self._key = f, key
        self.dtype, self.shape = stored.get_dtype(), tuple(stored.get_shape())

    def read(self):
        return self._file.get_tensor(self._key)
