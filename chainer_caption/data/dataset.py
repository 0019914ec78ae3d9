"""Datasets: images with their captions and features."""
from __future__ import annotations

import collections
import copy
import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from chainer_caption.data.captions import SPLITS, read_captions
from chainer_caption.data.matrix import (
    grid_means,
    open_matrix,
    opening_matrix,
    provenance_path,
    read_provenance,
    record_provenance,
)
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS, base_encoder
from chainer_caption.storage.cache import forget_unused
from chainer_caption.storage.files import sample_digest

__all__ = ['READS', 'SPLITS', 'TRAINING_SPLITS', 'Dataset', 'read_provenance', 'record_provenance']

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
    What opening it costs is kept in the cache (see `storage.cache`).

    Args:
        folder: The folder with `dataset.json` and a feature file.
        dataset: A captions file to use in place of the one in `folder`.
        features: A feature file, of vectors or of grids, to use in place of those in `folder`.

    Attributes:
        captions: The images and their sentences.
        features: Vectors, (N, D) float32 or float16, or None; the row of an image is its `imgid`.
        grids: (N, L, D) float32 or float16, or None: D numbers at each of L locations, memory-mapped.
        features_path: The file of what is read (see `reading`): of the vectors, or of the grids where there are no
            vectors.
        provenance: The `encoder` and `preprocessing` that made those features, or None if they are not recorded.
        digest: Digests of `captions` and of those features (`features`, `grids`), the same wherever the dataset is.

    Raises:
        InputError: A file is missing or does not hold what it should; the line names the file.
    """

    features: np.ndarray | None
    grids: np.ndarray | None

    def __init__(self, folder: str | os.PathLike | None = None, dataset: str | os.PathLike | None = None,
                 features: str | os.PathLike | None = None) -> None:
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
        """Sets what follows from `_reads`."""
        paths = [self._paths[kind] for kind in ('vectors', 'grids') if self._reads in (kind, 'both')]
        self.features_path = paths[0]
        self.provenance, *others = map(read_provenance, paths)
        for other in others:
            if other and self.provenance and other != self.provenance:
                made, by = ('{encoder}/{preprocessing}'.format(**record) for record in (other, self.provenance))
                raise InputError(f'{paths[1]}: recorded as features of {made}, but {paths[0]} of {by}; an architecture '
                                 'that reads both needs the same encoder')
            self.provenance = self.provenance and other
        names = {'vectors': 'features', 'grids': 'grids'}
        self.digest = {'captions': self.captions.digest, **{
            names[kind]: sample_digest(path) for kind, path in self._paths.items() if path in paths}}

    def reading(self, reads: str) -> Dataset:
        """The dataset as an architecture reads it: `features_path`, `provenance`, `digest` and `feature_size` are those
        of the features that it reads.

        An architecture that reads vectors may read the mean of each grid, where the recorded encoder defines its vector
        as that mean (`Encoder.grid_mean`).

        Args:
            reads: One of `READS`.

        Raises:
            InputError: The dataset lacks what is read, or vectors and grids do not belong together.
        """
        if reads not in READS:
            raise InputError.of('reads', reads, f'must be one of {", ".join(READS)}')
        if reads == self._reads:
            return self
        if self.features is None and reads == 'vectors':
            encoder = ENCODERS.get(base_encoder(self.provenance['encoder'])) if self.provenance else None
            if encoder is None or not encoder.grid_mean:
                raise InputError(f'{self.features_path}: holds grids, but the architecture reads vectors; add '
                                 f'{_VECTORS[2]}, or choose an architecture that reads grids (their mean is used only '
                                 f'where {provenance_path(self.features_path)} records an encoder that is known to '
                                 'average its grid)')
            other = copy.copy(self)
            assert self.grids is not None
            other.features, other.grids, other._reads = grid_means(self.features_path, self.grids), None, reads
            return other
        if self.grids is None or self.features is None:
            there, wanted = ('vectors', 'grids') if self.grids is None else ('grids', 'vectors')
            raise InputError(f'{self.features_path}: holds {there}, but the architecture reads {reads}; add '
                             f'{_GRIDS[0] if wanted == "grids" else _VECTORS[2]} with {wanted}, or choose an '
                             f'architecture that reads {there}')
        other = copy.copy(self)
        other._reads = reads
        other._describe()
        if reads == 'both' and self.features.shape[1] != self.grids.shape[2]:
            raise InputError(f'{self._paths["grids"]}: has {self.grids.shape[2]} numbers at a location, but '
                             f'{self.features_path} {self.features.shape[1]} an image; an architecture that reads both '
                             'needs the same number')
        return other

    def inputs(self, reads: str) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The features that an architecture reads: vectors (N, D), grids (N, L, D), or a tuple of both.

        Args:
            reads: One of `READS`.

        Raises:
            InputError: As `reading`.
        """
        dataset = self.reading(reads)
        there = [array for kind, array in (('vectors', dataset.features), ('grids', dataset.grids))
                 if reads in (kind, 'both') and array is not None]
        return there[0] if reads != 'both' else (there[0], there[1])

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
        """The images of some splits, as indices into `captions.filenames`: (n,) int.

        Raises:
            InputError: There are none.
        """
        chosen = np.flatnonzero(np.isin(self.captions.splits, [SPLITS.index(split) for split in splits]))
        if not len(chosen):
            there = collections.Counter(SPLITS[s] for s in self.captions.splits if s != _NO_SPLIT)
            raise InputError(f'{self.dataset_path}: no image is of the split {" or ".join(splits)} '
                             f'(there are: {", ".join(f"{n} {split}" for split, n in sorted(there.items()))})')
        return chosen

    def without(self, images: Sequence[int] | np.ndarray) -> Dataset:
        """The same dataset with some images in no split, so that they are neither trained on nor scored.

        Args:
            images: Indices into `captions.filenames`.
        """
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
        """The sentences of some splits, without empty ones.

        Returns:
            `(rows, tokens, bounds)`: the feature row of each sentence's image, (n,) int64; the tokens of all, as
            indices into `captions.words`, int32; sentence i has tokens[bounds[i]:bounds[i + 1]], (n + 1,) int64.

        Raises:
            InputError: The splits hold no sentence.
        """
        captions = self.captions
        if not len(captions.tokens):
            raise InputError(f'{self.dataset_path}: no image has a caption, so there is nothing to learn from')
        images = self.images(*splits)
        first, last = captions.sentences[images], captions.sentences[images + 1]
        sentences = _ranges(first, last)
        rows = np.repeat(captions.image_ids[images], last - first)
        starts, stops = captions.bounds[sentences], captions.bounds[sentences + 1]
        nonempty = stops > starts
        if not nonempty.any():
            raise InputError(f'{self.dataset_path}: the images of the split {" or ".join(splits)} have no captions')
        starts, stops = starts[nonempty], stops[nonempty]
        return (rows[nonempty], captions.tokens[_ranges(starts, stops)],
                np.concatenate([[0], np.cumsum(stops - starts)]))

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
