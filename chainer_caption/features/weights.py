"""Loads encoder weights: Chainer's `.npz`, Caffe's `.caffemodel`, PyTorch's `.pth` and `.safetensors`."""
from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.caffemodel import read_caffemodel
from chainer_caption.features.encoders import Encoder, Package
from chainer_caption.features.encoders.stages import FoldedEncoder
from chainer_caption.features.torch_weights import SUFFIXES, TorchWeights
from chainer_caption.storage.archives import npz_shapes, read_npz
from chainer_caption.storage.files import Path, open_regular, unreadable

_Shapes = dict[str, tuple[int, ...]]


def find_weights(encoder: Encoder, path: Path | None = None) -> str:
    """Finds the weights file of an encoder: `path` if given, or else one in the folder of Chainer's models
    (`$CHAINER_DATASET_ROOT/pfnet/chainer/models`, by default below `~/.chainer/dataset`), or else that of the Python
    package with the encoder's weights, if it is installed.

    Raises:
        InputError: There is none; the message names the source, its size and where to put it. Or the package's file
            has another SHA-256."""
    folder = weights_folder()
    for candidate in [os.fspath(path)] if path else [os.path.join(folder or os.devnull, n) for n in encoder.weights]:
        if os.path.exists(candidate):
            return candidate
    if not path and encoder.package and (packaged := _packaged(encoder.package, encoder.weights[0])):
        return packaged
    missing = f'{path}: no such file' if path else f'no weights for {encoder.name}'
    where = '' if folder is None else f'put the file into {folder}, or '
    raise InputError(f'{missing}; they come from {encoder.source}: {where}name it with -i{encoder.instead}')


def weights_folder() -> str | None:
    """The folder of Chainer's models; None for a user without a home folder (see `cli`)."""
    folder = chainer.dataset.get_dataset_directory('pfnet/chainer/models', create_directory=False)
    return None if folder.startswith(('~', os.devnull)) else folder


def _packaged(package: Package, name: str) -> str | None:
    found = importlib.util.find_spec(package.name)      # without importing it
    folders = (found and found.submodule_search_locations) or ()
    path = next(filter(os.path.exists, (os.path.join(folder, package.folder, name) for folder in folders)), None)
    if path is None:
        return None
    try:
        with open_regular(path) as f:
            digest = hashlib.sha256(f.read()).hexdigest()
    except OSError as e:
        raise unreadable(path, e) from e
    if digest != package.sha256:
        raise InputError(f'{path}: not the file that it should be, by its SHA-256; install the package again, or name '
                         'a file with -i')
    return path


def load_weights(link: Any, path: Path) -> str | None:
    """Loads weights from a file into a link on the CPU, whose parameters keep their dtype.

    The file may hold more than the link has (fc8). Shapes are checked before any array is read, arrays are read one at
    a time, and nothing in the file is executed. Returns the preprocessing of such weights, where their format tells:
    `'torchvision'` for those of a VGG encoder or of Caffe's ResNet-101 in PyTorch's formats.

    Args:
        path: `.npz` in the layout of Chainer's `save_npz` (`conv1_1/W`); `.caffemodel` with the link's layer names; for
            VGG, Caffe's ResNet-101 and each `FoldedEncoder` also `.pth`, `.pt`, `.pth.tar` or `.safetensors` with the
            names of torchvision or timm, be it within a checkpoint or behind the prefix of a wrapper (`module.`).

    Raises:
        InputError: The file is missing, damaged, of an unknown format, or does not fit the link."""
    wanted = chainer.serializers.DictionarySerializer()
    wanted.save(link)
    shapes = {name: np.shape(value) for name, value in sorted(wanted.target.items())}
    suffix = os.path.splitext(path)[1].lower()
    if suffix == '.npz':
        stored, read = _npz_weights(path)
    elif suffix == '.caffemodel':
        blobs = {f'{layer}/{part}': blob for layer, blobs in read_caffemodel(path).items()
                 for part, blob in zip('Wb', blobs, strict=False)}
        stored, read = {name: blob.shape for name, blob in blobs.items()}, lambda name: blobs[name].read()
    elif suffix in SUFFIXES:
        weights = TorchWeights(path, link, shapes)
        stored, read = weights.shapes, weights.read
    else:
        raise InputError(f'{path}: weights are .npz, .caffemodel, .pth or .safetensors files')
    for name, shape in shapes.items():
        if name not in stored:
            raise InputError(f'{path}: has no {name}; are these weights of another encoder?')
        if not _equal_size(stored[name], shape):
            raise InputError(f'{path}: {name} has shape {stored[name]} where {shape} is wanted; are these weights of '
                             'another encoder?')
    chainer.serializers.NpzDeserializer(_Reader(path, read, shapes)).load(link)
    return 'torchvision' if suffix in SUFFIXES and not isinstance(link, FoldedEncoder) else None


def _equal_size(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    # Old Caffe stores fully connected layers as (1, 1, out, in), timm as (out, channels, height, width), in this order.
    return stored == wanted or (len(stored) == 4 > len(wanted) and math.prod(stored) == math.prod(wanted))


class _Reader:
    """What NpzDeserializer takes for an archive; it reads one array at a time."""

    def __init__(self, path: Any, read: Callable[[str], np.ndarray], shapes: _Shapes) -> None:
        self.path, self.read, self.shapes = path, read, shapes

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            array = self.read(name)
        except Exception as e:
            raise InputError(f'{self.path}: {name} cannot be read ({e}); fetch the file again') from e
        return array.reshape(self.shapes[name])


def _npz_weights(path: Any) -> tuple[_Shapes, Callable[[str], np.ndarray]]:
    entries = npz_shapes(path)
    for name, (_, dtype) in entries.items():
        if dtype.kind not in 'fiu':
            raise InputError(f'{path}: {name} is of type {dtype}, which are no weights')
    return {name: shape for name, (shape, _) in entries.items()}, lambda name: read_npz(path, name)[name]
