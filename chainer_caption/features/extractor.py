"""Extracts features from images: an encoder with its weights and its preprocessing."""
from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import logging
from collections.abc import Callable, Sequence
from typing import IO, Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.errors import InputError
from chainer_caption.features.encoders import get_encoder, matches_digest
from chainer_caption.features.images import MAX_PIXELS, open_image
from chainer_caption.features.inference import Engine, cached_engine, make_engine, usable_precision
from chainer_caption.features.micro_batches import MicroBatches
from chainer_caption.features.onnx_names import is_onnx
from chainer_caption.features.preprocessing import PREPROCESSINGS, Preprocessing
from chainer_caption.features.weights import find_weights, load_weights
from chainer_caption.functions.memory import enough_memory
from chainer_caption.storage.files import Path, sample_digest


class Extractor:
    """Computes the features of images, of dimension `dim`, by an `encoder` on a `device` and a `preprocessing`. `grid`
    tells whether they are grids, which only the subclass `OnnxExtractor` computes.

    On the CPU, VGG runs in compiled loops and any other encoder in ONNX Runtime; without that, and on a GPU, in
    Chainer. `prepare` reads one image and may run in several threads; a call runs the encoder on a batch::

        extractor = Extractor.load('vgg19', weights='VGG_ILSVRC_19_layers.caffemodel')
        features = extractor([extractor.prepare(path) for path in paths])

    `link` is the encoder's Chain, or an `Engine` with it; the other arguments are as for `load`."""

    grid = False

    def __init__(self, encoder: str, preprocessing: str, link: Any, honour_exif: bool = True,
                 max_pixels: int = MAX_PIXELS, precision: str = 'float32') -> None:
        self.encoder, self.dim = encoder, get_encoder(encoder).dim
        self.preprocessing = _checked(preprocessing, encoder)
        self.device = link.device
        self._honour_exif, self._max_pixels, self._precision = honour_exif, max_pixels, precision
        self._weights: str | None = None
        self._compute = self._fastest(link)

    def _fastest(self, link: Any) -> Callable[[Any], Any]:
        if isinstance(link, Engine):
            return link
        if self.device.xp is cuda.cupy:
            return MicroBatches(lambda x: link(x).array, self.device)
        if isinstance(self.device, chainer.backend.CpuDevice):
            size = _graph_size(self.encoder)
            if self._precision != 'float32':
                return make_engine(link, size, self._precision)
            if hasattr(link, 'inference'):
                return link.inference()
            # ValueError: a Chain of another's own, with functions that have no ONNX node.
            with contextlib.suppress(ImportError, ValueError):
                return make_engine(link, size)
        return lambda x: link(self.device.send(x)).array

    @classmethod
    def load(cls, encoder: str = 'vgg19', preprocessing: str | None = None, weights: Path | None = None,
             device: Any = '@numpy', honour_exif: bool = True, max_pixels: int = MAX_PIXELS,
             precision: str = 'float32', say: Callable[[str], object] | None = None, output: str | None = None,
             grid: bool = False) -> Extractor:
        """Loads an encoder from weights on the disk.

        Args:
            encoder: One of `ENCODERS`, or the name of an encoder fine-tuned from it; or an ONNX file.
            preprocessing: One of `PREPROCESSINGS`, by default that of the weights (`torchvision` for VGG's from there),
                or else the encoder's (`karpathy` for VGG).
            weights, device: A file for `load_weights`, by default that of `find_weights`; for `chainer.get_device`.
            honour_exif, max_pixels: Turn images by their EXIF orientation; refuse images of more pixels.
            precision: One of `inference.PRECISIONS`; bf16, which OpenVINO computes, is faster on CPUs that have it.
            say: Called with each notice, one line; by default a warning of the logger `chainer_caption`.
            output, grid: Of an ONNX file: see `OnnxExtractor.open`.

        Raises:
            InputError: Unknown encoder or preprocessing, a preprocessing of another size or colour order than the
                encoder's, or weights that are missing, damaged or another encoder's."""
        _return_large_blocks()
        device, say = chainer.get_device(device), say or logging.getLogger('chainer_caption').warning
        if is_onnx(encoder):
            from chainer_caption.features.onnx_extractor import OnnxExtractor
            if precision != 'float32':
                raise InputError.of('encoder_precision', precision, 'an ONNX file is computed in its own data types')
            return OnnxExtractor.open(encoder, preprocessing, weights, device, honour_exif, max_pixels, output, grid,
                                      say)
        if grid or output is not None:
            raise InputError(f'encoder {encoder}: gives vectors; grids and other outputs are those of an ONNX file '
                             '(--encoder FILE.onnx)')
        precision = usable_precision(precision, device, say)
        path, digest = find_encoder(encoder, weights)
        link, wanted = _load(encoder, path, device, precision, say)
        extractor = cls(encoder, preprocessing or wanted, link, honour_exif, max_pixels, precision)
        expected, given = PREPROCESSINGS[wanted].channels, PREPROCESSINGS[extractor.preprocessing].channels
        if encoder == 'resnet101' and expected != given:            # the only one with published weights of both orders
            raise InputError(f'preprocessing {extractor.preprocessing} gives {given}, and these weights of resnet101 '
                             f'want {expected}, as by the preprocessing {wanted}; -i names others: resnet101.pth is of '
                             'RGB, ResNet-101-model.npz of BGR')
        extractor._weights = digest
        return extractor

    @property
    def identity(self) -> dict[str, Any]:
        """What the features depend on, as JSON values: encoder, preprocessing, digest of the weights file (None for
        weights without a file), EXIF, pixel limit, array library and precision."""
        return {'encoder': self.encoder, 'preprocessing': self.preprocessing, 'weights': self._weights,
                'EXIF': self._honour_exif, 'max-pixels': self._max_pixels, 'device': self.device.xp.__name__,
                'encoder-precision': self._precision}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image's features: (D,), or (L, D) for grids."""
        return (self.dim,)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of a prepared image, unless the preprocessing has no size."""
        size = get_encoder(self.encoder).size
        return 3, size, size

    @property
    def usual_preprocessings(self) -> list[str]:
        """The preprocessings that the encoder may have been used with."""
        known = get_encoder(self.encoder)
        return [name for name, preprocessing in PREPROCESSINGS.items() if preprocessing.size in (known.size, None)
                and (not preprocessing.encoders or known.name in preprocessing.encoders)]

    def with_preprocessing(self, preprocessing: str) -> Extractor:
        """An extractor of another preprocessing that shares the encoder; InputError if that is unknown or of another
        size."""
        sibling = copy.copy(self)
        sibling.preprocessing = _checked(preprocessing, self.encoder)
        return sibling

    def prepare(self, path: Path | IO[bytes]) -> np.ndarray:
        """Reads and prepares one image: (3, S, S), float32; (3, H, W) by a preprocessing without a size. ImageError is
        raised as by `open_image`, or if the image is too small."""
        return prepare(path, PREPROCESSINGS[self.preprocessing], self._honour_exif, self._max_pixels)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> Any:
        """Computes the features, (N, D) float32 on the extractor's device, of N >= 1 prepared images.

        Images of a preprocessing without a size are computed one by one, and so are images on a GPU whose memory is
        too small for all of them; InputError is raised where it is too small for a single image. In ONNX Runtime and
        OpenVINO an image's features do not depend on the rest of its batch."""
        # The precision of captioning does not change features.
        with chainer.using_device(self.device), chainer.using_config('train', False), chainer.no_backprop_mode(), \
                chainer.using_config('precision', 'float32'):
            if isinstance(self._compute, Engine):
                return self._compute(images)
            if PREPROCESSINGS[self.preprocessing].size is not None:
                return self._compute(np.asarray(images, np.float32))
            return self.device.xp.concatenate([self._compute(image[None]) for image in images])


def load_encoder(encoder: str, weights: Path | None = None) -> tuple[Any, str, str]:
    """Loads an encoder on the CPU; arguments and errors as of `Extractor.load`. Returns the link, the `sample_digest`
    of its file, and the name of the preprocessing of such weights."""
    path, digest = find_encoder(encoder, weights)
    link, preprocessing = _load_link(encoder, path)
    return link, digest, preprocessing


def find_encoder(encoder: str, weights: Path | None = None) -> tuple[str, str]:
    """The path of an encoder's weights file and its `sample_digest`; arguments and errors as of `load_encoder`."""
    path = find_weights(get_encoder(encoder), weights)
    digest = sample_digest(path)
    if not matches_digest(encoder, digest):
        raise InputError(f'{path}: not the weights of the encoder {encoder}; name the encoder.npz of the model that it '
                         'was fine-tuned with (-i)')
    return path, digest


def _load_link(encoder: str, path: str) -> tuple[Any, str]:
    known = get_encoder(encoder)
    link = known.link()
    return link, load_weights(link, path) or known.preprocessing


def _load(encoder: str, path: str, device: Any, precision: str, say: Callable[[str], object]) -> tuple[Any, str]:
    # What runs the encoder, and the preprocessing of its weights.
    known = get_encoder(encoder)
    if device.xp is np and (precision != 'float32' or not known.compiled):
        try:
            return cached_engine(path, known.name, _graph_size(encoder), lambda: _load_link(encoder, path), precision)
        except ImportError as e:
            say(f'{e.name} is not installed, so Chainer computes the image encoder, several times slower; pip install '
                'onnx onnxruntime')
    link, wanted = _load_link(encoder, path)
    with enough_memory(device):
        link.to_device(device)
    return link, wanted


def _graph_size(encoder: str) -> int | None:
    known = get_encoder(encoder)
    any_size = any(p.size is None and known.name in p.encoders for p in PREPROCESSINGS.values())
    return None if any_size else known.size


def prepare(path: Path | IO[bytes], preprocessing: Preprocessing, honour_exif: bool = True,
            max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image and prepares it; arguments and errors as of `open_image` and `Preprocessing.prepare`."""
    with open_image(path, honour_exif, max_pixels, preprocessing.min_side) as image:
        return preprocessing.prepare(image)


@functools.lru_cache(maxsize=1)
def _return_large_blocks() -> None:
    # glibc maps large blocks one by one and returns them, but raises its threshold when the first is freed, and keeps
    # blocks of up to 32 MiB from then on: decoded images of all sizes, from several threads, leave holes of 100 MiB.
    with contextlib.suppress(AttributeError, OSError, TypeError):           # another C library; Windows
        ctypes.CDLL(None).mallopt(-3, 4 * 2 ** 20)      # M_MMAP_THRESHOLD of glibc's malloc.h


def _checked(name: str, encoder: str) -> str:           # the preprocessing's name, if it fits the encoder
    if name not in PREPROCESSINGS:
        raise InputError(f'unknown preprocessing {name!r}: it is one of {", ".join(PREPROCESSINGS)}')
    preprocessing, known = PREPROCESSINGS[name], get_encoder(encoder)
    size, wanted = preprocessing.size, f'{encoder} takes {known.size} x {known.size}'
    if size is None and known.name not in preprocessing.encoders:
        raise InputError(f'preprocessing {name} leaves images at their own size, which only '
                         f'{", ".join(preprocessing.encoders)} takes; {wanted} pixels')
    if size not in (None, known.size):
        raise InputError(f'preprocessing {name} gives {size} x {size} pixels, and {wanted}')
    return name
