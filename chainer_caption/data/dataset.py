"""Datasets: images with their captions and features."""
import collections
import copy
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainer_caption.data.captions import SPLITS, read_captions
from chainer_caption.data.matrix import grid_means, open_matrix, opening_matrix, provenance_path, read_provenance
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS, base_encoder
from chainer_caption.features.onnx_names import is_onnx
from chainer_caption.storage.cache import forget_unused
from chainer_caption.storage.files import Path, sample_digest

__all__ = ['READS', 'SPLITS', 'TRAINING_SPLITS', 'Dataset', 'read_provenance']

# `restval` are the images of MS COCO's validation set that Karpathy's split gives to training.
TRAINING_SPLITS = ('train', 'restval')
#: What an architecture may read: feature vectors (N, D), feature grids (N, L, D), or a pair of both.
READS = 'vectors', 'grids', 'both'

_NO_SPLIT = -1
_VECTORS = ('vgg_feats.mat', 'vgg_feats_hdf5.mat', 'feats.npy', 'feats.npz', 'vgg_feats.npy', 'vgg_feats.npz')
_GRIDS = ('grids.npy', 'grids.npz')


class Dataset:
    """Images, captions and features in the layout of Karpathy's *deepimagesent* datasets.

    A dataset holds feature vectors, feature grids, or both. Nothing is written into it, except by `record_provenance`.
    What opening it costs is kept in the cache (see `storage.cache`). InputError names a file that is missing or does
    not hold what it should.

    `folder` holds `dataset.json` and a feature file; `dataset`, a captions file, and `features`, a feature file of
    vectors or of grids, are used in place of those in it.

    Attributes:
        captions: The images and their sentences.
        features: Vectors, (N, D) float32 or float16, or None; the row of an image is its `imgid`.
        grids: (N, L, D) float32 or float16, or None: D numbers at each of L locations, memory-mapped.
        features_path: The file of what is read (see `reading`): of the vectors, or of the grids without vectors.
        provenance: The `encoder` and `preprocessing` that made those features, or None if they are not recorded.
        digest: Digests of `captions` and of those features (`features`, `grids`), the same wherever the dataset is.
    """

    features: np.ndarray | None
    grids: np.ndarray | None

    def __init__(self, folder: Path | None = None, dataset: Path | None = None, features: Path | None = None) -> None:
        if folder is None and (dataset is None or features is None):
            raise InputError('a dataset is a folder, or a dataset.json and a feature matrix: name the folder or both')
        if folder is not None and not os.path.isdir(folder):
            raise InputError(f'{folder}: no such folder' if not os.path.exists(folder) else
                             f'{folder}: not a folder; a dataset is one with dataset.json and vgg_feats.mat in it')
        self.dataset_path = pathlib.Path(dataset) if dataset is not None else pathlib.Path(folder or '', 'dataset.json')
        path, *others = [pathlib.Path(features)] if features is not None else _find_features(pathlib.Path(folder or ''))
        axes = (2, 3) if features is not None else (2,) if path.name in _VECTORS else (3,)
        with opening_matrix(path, axes) as opened:
            self.captions = read_captions(self.dataset_path)
            if not self.captions.filenames:
                raise InputError(f'{self.dataset_path}: no images')
            rows = int(self.captions.image_ids.max()) + 1
            array = opened(rows)
        self._paths = {'vectors' if array.ndim == 2 else 'grids': path}
        self.features, self.grids = (array, None) if array.ndim == 2 else (None, array)
        for grids_path in others:
            self._paths['grids'], self.grids = grids_path, open_matrix(grids_path, rows, (3,))
        self._reads = 'vectors' if self.features is not None else 'grids'
        self._describe()
        forget_unused()

    def _describe(self) -> None:
        paths = [self._paths[kind] for kind in ('vectors', 'grids') if self._reads in (kind, 'both')]
        self.features_path = paths[0]
        self.provenance, *others = map(read_provenance, paths)
        for other in others:
            if other and self.provenance and other != self.provenance:
                made, by = ('{encoder}/{preprocessing}'.format(**record) for record in (other, self.provenance))
                raise InputError(f'{paths[1]}: recorded as features of {made}, but {paths[0]} of {by}; an architecture '
                                 'that reads both needs the same encoder')
            self.provenance = self.provenance and other
        digests = {{'vectors': 'features'}.get(kind, kind): sample_digest(path)
                   for kind, path in self._paths.items() if path in paths}
        self.digest: dict[str, Any] = {'captions': self.captions.digest, **digests}

    def reading(self, reads: str) -> 'Dataset':
        """The dataset as an architecture reads it: `features_path`, `provenance`, `digest` and `feature_size` are those
        of the features that it reads, one of `READS`.

        An architecture that reads vectors may read the mean of each grid, where the recorded encoder defines its vector
        as that mean (`Encoder.grid_mean`). Raises InputError if the dataset lacks what is read, or vectors and grids do
        not belong together."""
        if reads not in READS:
            raise InputError.of('reads', reads, f'must be one of {", ".join(READS)}')
        if reads == self._reads:
            return self
        other = copy.copy(self)
        other._reads = reads
        if self.features is None and self.grids is not None and reads == 'vectors':
            name = self.provenance['encoder'] if self.provenance else ''
            encoder = ENCODERS.get(base_encoder(name))
            if not is_onnx(name) and (encoder is None or not encoder.grid_mean):
                raise InputError(f'{self.features_path}: holds grids, but the architecture reads vectors; add '
                                 f'{_VECTORS[2]}, or choose an architecture that reads grids (their mean is used only '
                                 f'where {provenance_path(self.features_path)} records an encoder that is known to '
                                 'average its grid)')
            other.features, other.grids = grid_means(self.features_path, self.grids), None
            return other
        if self.grids is None or self.features is None:
            there, wanted, name = ('vectors', 'grids', _GRIDS[0]) if self.grids is None else \
                ('grids', 'vectors', _VECTORS[2])
            raise InputError(f'{self.features_path}: holds {there}, but the architecture reads {reads}; add {name} '
                             f'with {wanted}, or choose an architecture that reads {there}')
        other._describe()
        if reads == 'both' and self.features.shape[1] != self.grids.shape[2]:
            raise InputError(f'{self._paths["grids"]}: has {self.grids.shape[2]} numbers at a location, but '
                             f'{self.features_path} {self.features.shape[1]} an image; an architecture that reads both '
                             'needs the same number')
        return other

    def inputs(self, reads: str) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The features that an architecture reads, one of `READS`: vectors (N, D), grids (N, L, D), or a tuple of both.
        Raises InputError as `reading` does."""
        dataset = self.reading(reads)
        arrays: Any = {'vectors': dataset.features, 'grids': dataset.grids, 'both': (dataset.features, dataset.grids)}
        return arrays[reads]

    @property
    def cache_path(self) -> pathlib.Path:
        """The file whose cache entry (`storage.cache`) has what is made of the captions."""
        return self.dataset_path

    @property
    def feature_size(self) -> int:
        """D, the length of a feature vector, or of the features at one location of a grid."""
        array = self.grids if self._reads == 'grids' else self.features
        assert array is not None
        return array.shape[-1]

    @property
    def training_splits(self) -> Sequence[str]:
        """The splits to train on: those of TRAINING_SPLITS that have images, or all of them where none has."""
        return [split for split in TRAINING_SPLITS if SPLITS.index(split) in self.captions.splits] or TRAINING_SPLITS

    def images(self, *splits: str) -> np.ndarray:
        """The images of some splits, as indices into `captions.filenames`: (n,) int; InputError if there are none."""
        chosen = np.flatnonzero(self.captions.in_splits(splits))
        if not len(chosen):
            there = collections.Counter(SPLITS[s] for s in self.captions.splits if s != _NO_SPLIT)
            raise InputError(f'{self.dataset_path}: no image is of the split {" or ".join(splits)} '
                             f'(there are: {", ".join(f"{n} {split}" for split, n in sorted(there.items()))})')
        return chosen

    def without(self, images: Sequence[int] | np.ndarray) -> 'Dataset':
        """The dataset with some images, as indices into `captions.filenames`, in no split: neither trained on nor
        scored."""
        splits = self.captions.splits.copy()
        splits[images] = _NO_SPLIT
        other = copy.copy(self)
        other.captions = dataclasses.replace(self.captions, splits=splits)
        return other

    def references(self, image: int) -> list[list[str]]:
        """The sentences of an image, as tokens."""
        sentences = self.captions.sentences
        return [self.captions.sentence(j) for j in range(sentences[image], sentences[image + 1])]

    def sentences(self, *splits: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sentences of some splits, without empty ones; raises InputError if there are none.

        Returns:
            `(rows, tokens, bounds)`: the feature row of each sentence's image, (n,) int64; the tokens of all, as
            indices into `captions.words`, int32; sentence i has tokens[bounds[i]:bounds[i + 1]], (n + 1,) int64.
        """
        captions = self.captions
        if not len(captions.tokens):
            raise InputError(f'{self.dataset_path}: no image has a caption, so there is nothing to learn from')
        images = self.images(*splits)
        first, last = captions.sentences[images], captions.sentences[images + 1]
        sentences = _ranges(first, last)
        rows = np.repeat(captions.image_ids[images], last - first)
        starts, stops = captions.bounds[sentences], captions.bounds[sentences + 1]
        if not (nonempty := stops > starts).any():
            raise InputError(f'{self.dataset_path}: the images of the split {" or ".join(splits)} have no captions')
        starts, stops = starts[nonempty], stops[nonempty]
        bounds = np.concatenate([[0], np.cumsum(stops - starts)])
        return rows[nonempty], captions.tokens[_ranges(starts, stops)], bounds

    def word_counts(self, *splits: str) -> tuple[dict[str, int], int]:
        """How often each word occurs in the captions of some splits, and the number of those captions."""
        _, tokens, bounds = self.sentences(*splits)
        counts = np.bincount(tokens, minlength=len(self.captions.words))
        return {word: int(n) for word, n in zip(self.captions.words, counts, strict=True) if n}, len(bounds) - 1


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The numbers of [start, stop) for each pair, one after another."""
    lengths = stops - starts
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def _find_features(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of vectors and of grids in a folder: one of each kind, or of one kind."""
    found = [next((folder / name for name in names if (folder / name).exists()), None) for names in (_VECTORS, _GRIDS)]
    if not any(found):
        raise InputError(f'{folder}: no feature matrix in it (looked for {", ".join((*_VECTORS, *_GRIDS))})')
    return [path for path in found if path is not None]
