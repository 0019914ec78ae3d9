"""An ONNX file with an image network: checked in a child process, then run by ONNX Runtime."""
from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.inference import open_session
from chainer_caption.features.onnx_child import KIND
from chainer_caption.functions.compiled import parallel_for
from chainer_caption.storage.children import reading
from chainer_caption.storage.files import Path, open_regular, unreadable

_READER = pathlib.Path(__file__).with_name('onnx_child.py')
_LARGEST = 2 ** 24              # numbers of an image's features


@dataclasses.dataclass(frozen=True)
class Output:
    """An output of an ONNX network that can be features: `locations` x `dim` numbers an image."""

    name: str
    shape: tuple[int, ...]                  #: of one image, as the network gives it
    locations: int                          #: L; 1 for a vector
    dim: int                                #: D
    finite: bool                            #: whether the values for a black image are finite


class OnnxFile:
    """An image network in an ONNX file.

    Attributes:
        digest: SHA-256 of the file, and of those with its external data, in hexadecimal digits.
        size: Height and width of its images.
        outputs: Those that can be features.

    Args:
        path: The file. Its weights may lie in other files in the same folder (external data).
        size, layout: Height and width, and `'NCHW'` or `'NHWC'`; None for what the network declares.

    Raises:
        InputError: The file is missing, no ONNX file or damaged; needs operators that are not ONNX's, or files from
            elsewhere; is no network of colour images of this size; or exceeds limits of time and memory on one."""

    def __init__(self, path: Path, size: tuple[int, int] | None = None, layout: str | None = None) -> None:
        try:
            open_regular(path).close()
        except OSError as e:
            raise unreadable(path, e) from e
        with reading(path, KIND, _READER, json.dumps({'size': size, 'layout': layout})) as child:
            found = json.loads(child.frame())
        self.path, self.digest, self.size = path, str(found['digest']), (found['size'][0], found['size'][1])
        self._input, self._dtype, self._batch = found['input'], np.dtype(found['dtype']), found['batch']
        self._last = found['layout'] == 'NHWC'          # whether channels are the last axis
        self._all = {one['name']: one['shape'] for one in found['outputs']}
        self.outputs = [self._output(**one) for one in found['outputs'] if _is_usable(one['shape'])]
        self._session: Any = None

    def _output(self, name: str, shape: list[int], finite: bool) -> Output:
        locations = {1: 1, 2: shape[0]}.get(len(shape)) or math.prod(shape[:2] if self._last else shape[1:])
        return Output(name, tuple(shape), locations, math.prod(shape) // locations, finite)

    def find_output(self, name: str | None = None, grid: bool = False) -> Output:
        """The output with the features: that of a name, or the only one that can be, or the only one that is a grid, or
        not, as wanted. InputError where there is none, or several."""
        if name is not None:
            candidates = [output for output in self.outputs if output.name == name]
        elif len(self.outputs) > 1:
            candidates = [output for output in self.outputs if (output.locations > 1) == grid] or self.outputs
        else:
            candidates = self.outputs
        if len(candidates) != 1:
            listed = ', '.join(f'{of} (N{"".join(f" x {dim}" for dim in shape)})' if shape else of
                               for of, shape in self._all.items())
            what = 'has several outputs; choose one with --encoder-output' if candidates else \
                'has no output with features' + (f' called {name!r}' if name is not None else '')
            raise InputError(f'{self.path}: {what} (its outputs: {listed or "none of floats"})')
        if not candidates[0].finite:
            raise InputError(f'{self.path}: its output {candidates[0].name!r} is not finite on a black image')
        return candidates[0]

    def compute(self, images: np.ndarray, output: Output) -> np.ndarray:
        """The features of prepared images (N, 3, H, W), N >= 1: (N, L, D) float32. They depend neither on the other
        images, if the network takes any number, nor on the number of threads. InputError where the network fails, or
        gives another shape."""
        if self._session is None:
            try:
                self._session = open_session(self.path)
            except Exception as e:                      # it may have changed since it was checked
                raise InputError(f'{self.path}: ONNX Runtime cannot load it ({e})') from e
        if self._last:
            images = images.transpose(0, 2, 3, 1)
        with np.errstate(over='ignore'):
            images = np.ascontiguousarray(images, self._dtype)
        made: list[Any] = [None] * -(-len(images) // self._batch)

        def part(start: int, stop: int) -> None:
            for i in range(start, stop):
                made[i] = self._run(images[i * self._batch:(i + 1) * self._batch], output)

        parallel_for(part, len(made))
        features = np.concatenate(made).astype(np.float32)
        shape = len(features), *((output.locations, output.dim) if self._last or len(output.shape) < 3 else
                                 (output.dim, output.locations))
        features = features.reshape(shape)
        return features if shape[1:] == (output.locations, output.dim) else \
            np.ascontiguousarray(features.transpose(0, 2, 1))

    def _run(self, images: np.ndarray, output: Output) -> np.ndarray:
        count, batch = len(images), self._batch
        if count < batch:                               # a network with a fixed number of images
            images = np.concatenate([images, np.zeros((batch - count, *images.shape[1:]), images.dtype)])
        try:
            values, = self._session.run([output.name], {self._input: images})
        except Exception as e:
            raise InputError(f'{self.path}: fails on images ({e})') from e
        if values.shape != (batch, *output.shape):
            raise InputError(f'{self.path}: its output {output.name!r} has the shape {values.shape} for {batch} '
                             f'images, not {(batch, *output.shape)}')
        return values[:count]


def _is_usable(shape: list[int] | None) -> bool:
    return shape is not None and 1 <= len(shape) <= 3 and 0 < math.prod(shape) <= _LARGEST
