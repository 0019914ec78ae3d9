"""Loads the weights of encoders: Chainer's `.npz`, Caffe's `.caffemodel`, PyTorch's `.pth` and `.safetensors`."""
import hashlib
import importlib.util
import os

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.caffemodel import read_caffemodel
from chainer_caption.features.encoders.folding import Folded
from chainer_caption.features.torch_weights import SUFFIXES, TorchWeights
from chainer_caption.storage.archives import npz_shapes, read_npz
from chainer_caption.storage.files import open_regular, unreadable


def find_weights(encoder, path=None):
    """Finds an encoder's weights on the disk.

    Args:
        encoder (chainer_caption.features.encoders.Encoder): The encoder.
        path (str or os.PathLike): The file, if it is known. Without it, the place where Chainer keeps its models is
            searched (`$CHAINER_DATASET_ROOT/pfnet/chainer/models`, as a rule below `~/.chainer/dataset`), and then the
            Python package that brings the encoder's weights, if there is one and it is installed.

    Returns:
        str: A file that exists.

    Raises:
        InputError: There is none; the message says where to get it, its size and where to put it. Or the package's is
            not the one that it should be.
    """
    folder = weights_folder()
    candidates = [os.fspath(path)] if path else [os.path.join(folder or os.devnull, name) for name in encoder.weights]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    packaged = None if path or encoder.package is None else _packaged(encoder.package, encoder.weights[0])
    if packaged:
        return packaged
    missing = f'{path}: no such file' if path else f'no weights for {encoder.name}'
    where = '' if folder is None else f'put the file into {folder}, or '
    raise InputError(f'{missing}; they come from {encoder.source}: {where}name it with -i{encoder.instead}')


def weights_folder():
    """Where Chainer keeps its models; None for somebody without a home (see `cli`), who has no such folder, either."""
    folder = chainer.dataset.get_dataset_directory('pfnet/chainer/models', create_directory=False)
    return None if folder.startswith(('~', os.devnull)) else folder


def _packaged(package, name):
    # It is looked for and not imported.
    found = importlib.util.find_spec(package.name)
    for folder in (found and found.submodule_search_locations) or ():
        path = os.path.join(folder, package.folder, name)
        if os.path.exists(path):
            try:
                with open_regular(path) as f:
                    digest = hashlib.sha256(f.read()).hexdigest()
            except OSError as e:
                raise unreadable(path, e) from e
            if digest != package.sha256:
                raise InputError(f'{path}: not the file that it should be, by its SHA-256; install the package again, '
                                 'or name a file with -i')
            return path
    return None


def load_weights(link, path):
    """Loads weights from a file into a link on the CPU.

    The file may hold more than the link has (fc8). Shapes are checked before any array is read, arrays are read one
    at a time, and nothing in the file is ever executed.

    Args:
        link (chainer.Link): Where to; its parameters keep their dtype.
        path (str or os.PathLike): `.npz` in the layout of Chainer's `save_npz` (`conv1_1/W`), `.caffemodel` whose
            layers are named as the link's, or, for VGG encoders, Caffe's ResNet-101 and those that are `Folded`,
            PyTorch's `.pth` or `.safetensors` with the names of torchvision or timm.

    Returns:
        str or None: The preprocessing that such weights were trained with, where their format tells: those of a VGG
        encoder or of Caffe's ResNet-101 want `'torchvision'` in PyTorch's.

    Raises:
        InputError: The file is missing, damaged, of no known format, or does not fit the link.
    """
    wanted = chainer.serializers.DictionarySerializer()
    wanted.save(link)
    shapes = {name: np.shape(value) for name, value in sorted(wanted.target.items())}
    suffix = os.path.splitext(path)[1].lower()
    if suffix == '.npz':
        arrays = _NpzWeights(path)
    elif suffix == '.caffemodel':
        arrays = _CaffeWeights(path)
    elif suffix in SUFFIXES:
        arrays = TorchWeights(path, link, shapes)
    else:
        raise InputError(f'{path}: weights are .npz, .caffemodel, .pth or .safetensors files')
    for name, shape in shapes.items():
        if name not in arrays.shapes:
            raise InputError(f'{path}: has no {name}; are these weights of another encoder?')
        if not _alike(arrays.shapes[name], shape):
            raise InputError(f'{path}: {name} has shape {arrays.shapes[name]} where {shape} is wanted; '
                             'are these weights of another encoder?')
    chainer.serializers.NpzDeserializer(_Reader(path, arrays, shapes)).load(link)
    return 'torchvision' if suffix in SUFFIXES and not isinstance(link, Folded) else None


def _alike(stored, wanted):
    # A fully connected layer is stored with four dimensions by the old Caffe (1, 1, out, in) and by timm (out,
    # channels, height, width), in the same order of numbers.
    return stored == wanted or (len(stored) == 4 and np.prod(stored, dtype=object) == np.prod(wanted, dtype=object) and
                                len(wanted) < 4)


class _Reader:
    # What NpzDeserializer takes for an opened archive: array by array, when it asks for it.
    def __init__(self, path, arrays, shapes):
        self.path, self.arrays, self.shapes = path, arrays, shapes

    def __getitem__(self, name):
        try:
            array = self.arrays.read(name)
        except Exception as e:
            raise InputError(f'{self.path}: {name} cannot be read ({e}); fetch the file again') from e
        return array.reshape(self.shapes[name])


class _NpzWeights:
    def __init__(self, path):
        self._path = path
        described = npz_shapes(path)
        self.shapes = {name: shape for name, (shape, _) in described.items()}
        for name, (_, dtype) in described.items():
            if dtype.kind not in 'fiu':
                raise InputError(f'{path}: {name} is of type {dtype}, which are no weights')

    def read(self, name):
        return read_npz(self._path, name)[name]


class _CaffeWeights:
    def __init__(self, path):
        self._blobs = {f'{layer}/{part}': blob for layer, blobs in read_caffemodel(path).items()
                       for part, blob in zip('Wb', blobs, strict=False)}
        self.shapes = {name: blob.shape for name, blob in self._blobs.items()}

    def read(self, name):
        return self._blobs[name].read()
