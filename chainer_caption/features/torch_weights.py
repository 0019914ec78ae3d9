"""Reads weights of torchvision and timm from `.pth` and `.safetensors` files, under the names of our links."""
from __future__ import annotations

import math
import os
import re
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.caffemodel import stored_array
from chainer_caption.storage.files import Path, open_regular, parse_json, unreadable
from chainer_caption.storage.pickles import ForbiddenCall
from chainer_caption.storage.torch_files import StoredTensor, read_state_dict

SUFFIXES = '.pth', '.pt', '.tar', '.safetensors'        #: of such files

# What wrappers put before every name: DataParallel, torch.compile, and models that hold the encoder.
_PREFIXES = 'module.', '_orig_mod.', 'model.', 'net.', 'encoder.', 'backbone.'
_CONVOLUTION = re.compile(r'features\.([0-9]{1,4})\.weight')             # of VGG
# The fully connected layers of VGG in torchvision, and in timm, which has them as convolutions.
_FULLY_CONNECTED = {'classifier.0': 'fc6', 'classifier.3': 'fc7', 'pre_logits.fc1': 'fc6', 'pre_logits.fc2': 'fc7'}
# Batch normalisation in a state dict: scale, shift, mean and variance.
_NORM = 'weight', 'bias', 'running_mean', 'running_var'

_DTYPES = {'F16': '<f2', 'F32': '<f4', 'F64': '<f8', 'I64': '<i8', 'I32': '<i4', 'I16': '<i2', 'I8': '|i1', 'U8': '|u1',
           'BOOL': '|b1'}
_MAX_HEADER = 2 ** 22


class TorchWeights:
    """The arrays of a `.pth` or `.safetensors` file, by Chainer's names; InputError for one that cannot be read or is
    damaged.

    A `FoldedEncoder` names its layers (`torch_layers`) and gets each convolution with its batch normalisation folded
    into it. `encoders.caffe.ResNet101` names its arrays (`torch_name`). For VGG, both libraries number the entries of
    `features`, activations included, in the order of the convolutions. `wanted` has the shapes of the link's arrays."""

    def __init__(self, path: Path, link: Any, wanted: dict[str, tuple[int, ...]]) -> None:
        self._tensors = _without_prefix(_read(path))
        self._link, self._layers = link, getattr(link, 'torch_layers', {})
        self._keys = self._keys_of(wanted)
        self.shapes = {}                                #: name (`conv1_1/W` ...) to shape, of the arrays that are there
        for name, keys in self._keys.items():
            found = [self._tensors[key] for key in keys if key in self._tensors]
            for key, tensor in zip(keys, found, strict=False):
                if tensor.dtype.kind != 'f':
                    raise InputError(f'{path}: {key} is stored as {tensor.dtype}; save it as float32')
            # Arrays of one normalisation that differ in shape count as missing.
            if len(found) == len(keys) and len({tensor.shape for tensor in found}) <= 1:
                self.shapes[name] = found[0].shape if found else wanted[name]

    def _keys_of(self, wanted: dict[str, tuple[int, ...]]) -> dict[str, list[str]]:
        # Each of the link's arrays to the tensors that make it; without any it is zero.
        if self._layers:
            return {f'{layer}/{part}': keys for layer, (conv, norm) in self._layers.items() for part, keys in (
                ('W', [f'{conv}.weight']), ('b', [f'{norm}.{part}' for part in _NORM]))}
        if hasattr(self._link, 'torch_name'):
            return {name: [key for key in [self._link.torch_name(name)] if key] for name in wanted}
        return {f'{ours}/{part}': [f'{theirs}.{of_torch}'] for ours, theirs in self._vgg_layers().items()
                for part, of_torch in (('W', 'weight'), ('b', 'bias'))}

    def _vgg_layers(self) -> dict[str, str]:
        numbers = sorted(int(match[1]) for key in self._tensors if (match := _CONVOLUTION.fullmatch(key)))
        convolutions = sorted(child.name for child in self._link.children() if child.name.startswith('conv'))
        return {**{ours: f'features.{n}' for n, ours in zip(numbers, convolutions, strict=False)},
                **{ours: theirs for theirs, ours in _FULLY_CONNECTED.items() if f'{theirs}.weight' in self._tensors}}

    def read(self, name: str) -> np.ndarray:
        """Reads one array."""
        layer, part = name.rsplit('/', 1)
        if not self._keys[name]:
            return np.zeros(self.shapes[name], np.int8)
        if layer not in self._layers:
            array = self._tensors[self._keys[name][0]].read()
            # Chainer's link adds a larger epsilon than the weights were trained with.
            return array if part != 'avg_var' else array.astype(np.float64) - (self._link.bn1.eps - self._link.epsilon)
        conv, norm = self._layers[layer]
        gamma, beta, mean, variance = (self._tensors[f'{norm}.{part}'].read().astype(np.float64) for part in _NORM)
        with np.errstate(all='raise'):                  # only damaged variances fail
            scale = gamma / np.sqrt(variance + self._link.epsilon)
        if part == 'b':
            return beta - mean * scale
        return self._tensors[f'{conv}.weight'].read() * scale[:, None, None, None]


def _read(path: Path) -> dict[str, StoredTensor]:
    if os.fspath(path).lower().endswith('.safetensors'):
        return _read_safetensors(path)
    try:
        return read_state_dict(path)
    except InputError as e:
        if not isinstance(e.__cause__, ForbiddenCall):
            raise
        raise InputError(f'{path}: holds a Python object ({e.__cause__}), such as a whole model, which only running '
                         'code loads; save its state_dict() alone with torch.save') from e


def _without_prefix(tensors: dict[str, Any]) -> dict[str, Any]:
    for prefix in _PREFIXES * 2 if tensors else ():
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    # The format is the length of a header (8 bytes), the header in JSON, and the numbers
    # (https://github.com/huggingface/safetensors). Its own library maps the file: see images.py.
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            length = int.from_bytes(f.read(8), 'little')
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f'a header of {length:,} bytes')
            header = parse_json(f.read(length))
        return {name: _stored(path, entry, 8 + length, size) for name, entry in header.items()
                if name != '__metadata__'}
    except OSError as e:
        raise unreadable(path, e) from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f'{path}: not a sound .safetensors file ({e})') from e


def _stored(path: Any, entry: dict[str, Any], first: int, size: int) -> StoredTensor:
    shape, (start, end) = entry['shape'], entry['data_offsets']
    if not all(type(number) is int and 0 <= number < 2 ** 62 for number in (*shape, start, end)) or len(shape) > 32:
        raise ValueError('a size that is none')
    if entry['dtype'] not in _DTYPES:
        raise ValueError(f'an array of type {entry["dtype"]}; save it as F32')
    dtype = _DTYPES[entry['dtype']]
    if end - start != math.prod(shape) * np.dtype(dtype).itemsize or first + end > size:
        raise ValueError(f'an array of shape {tuple(shape)} has not its bytes')
    return stored_array(path, first + start, dtype, tuple(shape))
