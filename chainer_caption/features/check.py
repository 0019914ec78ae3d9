"""Identification of the encoder and preprocessing that made a feature matrix, from a few of its images."""
from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.folders import find_in_folder
from chainer_caption.features.images import ImageError
from chainer_caption.features.onnx_names import is_onnx_file
from chainer_caption.features.weights import find_weights
from chainer_caption.storage.files import Path

#: Mean cosine similarity that the right pair reaches. JPEG decoders that round differently, and features in half
#: precision, cost a few thousandths at most.
THRESHOLD = 0.98
#: How many times farther from 1 the similarity of every other pair has to be: similar preprocessings give similar
#: features.
MARGIN = 2

_BATCH = 8
_Pair = tuple[str, str]                 # encoder and preprocessing


@dataclasses.dataclass(frozen=True)
class FeatureCheck:
    """The result of `check_features`."""

    #: (encoder, preprocessing) to the mean cosine similarity between the matrix and features made so.
    similarities: dict[_Pair, float]
    verdict: _Pair | None           #: what made the matrix; None if none of them did, or if these images cannot tell
    images: int                     #: number of images compared; unreadable ones are left out


def check_features(features: np.ndarray, paths: Sequence[Path], extractors: Iterable[Extractor],
                   preprocessings: Iterable[str] | None = None) -> FeatureCheck:
    """Finds the encoder and the preprocessing that made a feature matrix, by computing some of its rows again: the pair
    with the highest mean cosine similarity, if that is at least `THRESHOLD` and all others are at least `MARGIN` times
    as far from 1.

    Args:
        features, paths: Rows of the matrix, (N, D) float, and their images in the same order. A few dozen are enough.
        extractors: One for each encoder, with its weights; iterated once: a generator keeps one in memory at a time.
        preprocessings: Preprocessings to try, by default all that the encoder may have been used with.

    Raises:
        InputError: No image can be read, or their number is not that of the rows."""
    features = np.asarray(features, np.float64)
    if len(features) != len(paths):
        raise InputError(f'{len(features)} rows of features for {len(paths)} images')
    similarities, rows = {}, list[int]()
    for extractor in extractors:
        for preprocessing in preprocessings or extractor.usual_preprocessings:
            made, rows = _extract(extractor.with_preprocessing(preprocessing), paths)
            similarities[extractor.encoder, preprocessing] = _mean_cosine(made, features[rows])
    (pair, best), *others = sorted(similarities.items(), key=lambda item: -item[1])
    clear = best >= THRESHOLD and all(1 - other >= MARGIN * (1 - best) for _, other in others)
    return FeatureCheck(similarities, pair if clear else None, len(rows))


def sample_images(filenames: Sequence[str], folder: Path, limit: int = 16,
                  seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Samples up to `limit` images of a dataset to check, among those in a folder (`find_in_folder`; InputError if it
    has none). Returns their indices in `filenames`, the dataset's images, (n,) int, ascending; and their paths."""
    found = find_in_folder(filenames, folder)
    there = [i for i, filename in enumerate(filenames) if filename in found]
    if not there:
        raise InputError(f'{folder}: holds none of the images of the dataset, whose first is {filenames[0]}')
    places = np.array(there)[np.sort(np.random.default_rng(seed).permutation(len(there))[:limit])]
    return places, [found[filenames[i]] for i in places]


def find_extractors(weights: Sequence[Path] = (), encoders: Sequence[str] = (),
                    device: str | chainer.backend.Device = '@numpy', honour_exif: bool = True,
                    say: Callable[[str], None] = lambda line: None, precision: str = 'float32') -> Iterator[Extractor]:
    """Yields the encoders to check, loaded one after another: only one is in memory if the caller keeps none.

    Args:
        weights: Weights files; by default they are looked for where Chainer keeps its models.
        encoders: The encoder of each file; by default each file's encoder is found out. Without files, the encoders to
            load; by default all whose weights are found. An ONNX file may be in either list, and is its own weights.
        device, honour_exif, precision: As for `Extractor.load`.
        say: Takes notices, one line each, also about an encoder that is left out.

    Raises:
        InputError: A file is missing, damaged, or of no known encoder; or no encoder is found."""
    options: dict[str, Any] = {'device': device, 'honour_exif': honour_exif, 'precision': precision, 'say': say}
    onnx_files = [os.fspath(path) for path in (*weights, *encoders) if is_onnx_file(path)]
    for file in onnx_files:
        yield Extractor.load(file, **options)
    weights = [path for path in weights if not is_onnx_file(path)]
    encoders = [encoder for encoder in encoders if not is_onnx_file(encoder)]
    if onnx_files and not weights and not encoders:
        return
    if weights and encoders and len(weights) != len(encoders):
        raise InputError(f'{len(weights)} files of weights for {len(encoders)} encoders')
    for path, encoder in itertools.zip_longest(weights, encoders) if weights else ():
        yield _load(path, [encoder] if encoder else list(ENCODERS), **options)
    for encoder in (encoders or ENCODERS) if not weights else ():
        try:
            find_weights(ENCODERS[encoder])
        except InputError as e:
            if encoders:
                raise
            say(f'not tried: {e}')
        else:
            yield Extractor.load(encoder, **options)


def _load(path: Path, encoders: Sequence[str], **options: Any) -> Extractor:
    # A larger encoder's file may hold every array of a smaller one, so the larger one is tried first. The two ResNets
    # differ only in the names of their files.
    reasons, name = [], os.path.basename(path)
    for encoder in sorted(encoders, key=lambda encoder: name not in ENCODERS[encoder].weights):
        try:
            return Extractor.load(encoder, weights=path, **options)
        except InputError as e:
            reasons.append(e)
    raise reasons[0]


def _extract(extractor: Extractor, paths: Sequence[Path]) -> tuple[np.ndarray, list[int]]:
    # The features of the images that can be read, (n, D) float64, and their indices.
    made, batch, rows = [], [], []
    for row, path in enumerate(paths):
        with contextlib.suppress(ImageError):
            batch.append(extractor.prepare(path))
            rows.append(row)
        if batch and (len(batch) == _BATCH or row == len(paths) - 1):
            made.append(chainer.get_device('@numpy').send(extractor(batch)))
            batch = []
    if not rows:
        raise InputError('none of the images can be read, so there is nothing to compare')
    return np.concatenate(made).astype(np.float64), rows


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:                              # another D: not this encoder
        return 0.0
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)))
