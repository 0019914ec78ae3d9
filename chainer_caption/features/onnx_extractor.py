"""Features by an image encoder in an ONNX file of the user's."""
from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import IO, Any

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.extractor import Extractor, prepare
from chainer_caption.features.images import MAX_PIXELS
from chainer_caption.features.onnx_file import OnnxFile
from chainer_caption.features.onnx_names import OnnxName, is_onnx_file
from chainer_caption.features.onnx_settings import find_preprocessing, preprocessing_of, read_settings, settings_path
from chainer_caption.features.preprocessing import PREPROCESSINGS, Preprocessing
from chainer_caption.storage.files import Path


class OnnxExtractor(Extractor):
    """An `Extractor` whose encoder is an ONNX file, run by ONNX Runtime on the CPU; `device` is that of its results.

    Attributes:
        encoder: The name that features and models record: those of the file and of the output, digits of the SHA-256.
        grid: Whether the features of an image are a grid, (L, D), in place of its mean over the locations, (D,)."""

    def __init__(self, file: OnnxFile, preprocessing: Preprocessing, device: Any = '@numpy', output: str | None = None,
                 grid: bool = False, honour_exif: bool = True, max_pixels: int = MAX_PIXELS) -> None:
        self._file, self._output, self.grid = file, file.find_output(output, grid), grid
        if grid and self._output.locations == 1:
            raise InputError(f'{file.path}: its output {self._output.name!r} is a vector and no grid')
        name = os.path.splitext(os.path.basename(file.path))[0]
        self.encoder = str(OnnxName(name, file.digest, self._output.name))
        self.dim, self._weights = self._output.dim, file.digest
        self._prepare, self.preprocessing = preprocessing, preprocessing.name
        self.device = chainer.get_device(device)
        self._honour_exif, self._max_pixels, self._precision = honour_exif, max_pixels, 'float32'

    @classmethod
    def open(cls, encoder: str, preprocessing: str | None = None, weights: Path | None = None, device: Any = '@numpy',
             honour_exif: bool = True, max_pixels: int = MAX_PIXELS, output: str | None = None, grid: bool = False,
             say: Callable[[str], object] | None = None) -> OnnxExtractor:
        """Opens an ONNX file; other arguments and errors as of `Extractor.load`.

        Args:
            encoder: The file; or the name that a model records, with the file as `weights`.
            preprocessing: A name that a model may record; by default that of the settings beside the file.
            output, grid: As for `OnnxFile.find_output`; by default the output that the name or the settings have.
            say: Takes a notice of what is assumed, one line."""
        recorded = None if is_onnx_file(encoder) else OnnxName.parse(encoder)
        if recorded is not None and weights is None:
            raise InputError(f'the encoder {encoder} is an ONNX file, which is no part of the model; name the file '
                             'with --encoder FILE.onnx')
        path: Any = encoder if recorded is None else weights
        settings = read_settings(path)
        output = output or (recorded.output if recorded is not None else settings.get('output'))
        name = preprocessing or settings.get('preprocessing')
        named = None if name is None else find_preprocessing(name)
        size = settings.get('size') if named is None else _size(named)
        if named is not None and size is None:
            raise InputError(f'preprocessing {name} leaves images at their own size, which an ONNX file does not take')
        try:
            file = OnnxFile(path, size, settings.get('layout'))
        except InputError as e:
            if size is None and str(e).endswith('say which'):
                raise InputError(f'{e} in {settings_path(path)}, as {{"size": 224}}, or with --preprocessing') from e
            raise
        if recorded is not None and not file.digest.startswith(recorded.digest):
            raise InputError(f'{path}: not the file that the features were made with, {encoder}, by its SHA-256')
        wanted = named or preprocessing_of(settings, file.size)
        if named is None and not settings:
            (say or logging.getLogger('chainer_caption').warning)(
                f'{path}: assuming {file.size[0]} x {file.size[1]} pixels, the centre of the image, RGB, with the mean '
                f'and deviation of ImageNet, as torchvision does; {settings_path(path)} or --preprocessing can say '
                'otherwise')
        return cls(file, wanted, device, output, grid, honour_exif, max_pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._output.locations, self.dim) if self.grid else (self.dim,)

    @property
    def usual_preprocessings(self) -> list[str]:
        same = [name for name, known in PREPROCESSINGS.items() if _size(known) == self._file.size]
        return list(dict.fromkeys([self.preprocessing, *same]))

    def with_preprocessing(self, preprocessing: str) -> OnnxExtractor:
        found = find_preprocessing(preprocessing)
        if _size(found) != self._file.size:
            raise InputError(f'preprocessing {preprocessing} does not give {" x ".join(map(str, self._file.size))} '
                             f'pixels, which {self.encoder} takes')
        return OnnxExtractor(self._file, found, self.device, self._output.name, self.grid, self._honour_exif,
                             self._max_pixels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (3, *self._file.size)

    def prepare(self, path: Path | IO[bytes]) -> np.ndarray:
        return prepare(path, self._prepare, self._honour_exif, self._max_pixels)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> Any:
        """Computes the features, (N, D) or (N, L, D) float32 on the device, of N >= 1 prepared images; InputError where
        the network fails on them, or their features are not finite."""
        grids = self._file.compute(np.asarray(images, np.float32), self._output)
        with np.errstate(over='ignore', invalid='ignore'):
            features = grids if self.grid else grids.mean(axis=1)
        if not np.isfinite(features).all():
            raise InputError(f'{self._file.path}: its output {self._output.name!r} is not finite on an image')
        return self.device.send(features)


def _size(preprocessing: Preprocessing) -> tuple[int, int] | None:
    size = preprocessing.size
    return (size, size) if isinstance(size, int) else size
