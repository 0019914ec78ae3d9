"""A dataset opened: images, their captions, their features."""
import collections
import copy
import dataclasses
import os
import pathlib

import numpy as np

from chainer_caption.data.captions import SPLITS, read_captions
from chainer_caption.data.matrix import opening_matrix
from chainer_caption.errors import InputError
from chainer_caption.storage.cache import forget_unused
from chainer_caption.storage.files import read_json, sample_digest, unwritable, write_json
from chainer_caption.storage.legacy import current_keys

# `restval` is what MS COCO's validation images are called that Karpathy's split gives to training.
TRAINING_SPLITS = ('train', 'restval')

_NO_SPLIT = -1

_MATRICES = ('vgg_feats.mat', 'vgg_feats_hdf5.mat', 'feats.npy', 'feats.npz', 'vgg_feats.npy', 'vgg_feats.npz')


class Dataset:
    """A data set of images, captions and features in the layout of Karpathy's *deepimagesent* dataset.

    Nothing is ever written into it, but for `record_provenance` on request. What opening costs is kept in the cache
    (see `storage.cache`).

    Args:
        folder (str or os.PathLike or None): The folder with `dataset.json` and a feature matrix.
        dataset (str or os.PathLike or None): In place of the one in `folder`: the captions' file.
        features (str or os.PathLike or None): In place of the one in `folder`: the matrix's file.

    Attributes:
        captions (Captions): The images and their sentences.
        features (numpy.ndarray): (N, D) float32 or float16; the row of an image is its `imgid`.
        digest (dict): What tells this dataset from another, wherever it lies.
        provenance (dict or None): The `encoder` and `preprocessing` that made the features, where they are recorded.

    Raises:
        InputError: A file is missing or does not hold what it should; the line says what and where.
    """

    def __init__(self, folder=None, dataset=None, features=None):
        if folder is None and (dataset is None or features is None):
            raise InputError('a dataset is a folder, or a dataset.json and a feature matrix: name the folder or both')
        if folder is not None and not os.path.isdir(folder):
            raise InputError(f'{folder}: no such folder' if not os.path.exists(folder) else
                             f'{folder}: not a folder; a dataset is one with dataset.json and vgg_feats.mat in it')
        self.dataset_path = pathlib.Path(dataset if dataset is not None else pathlib.Path(folder) / 'dataset.json')
        self.features_path = pathlib.Path(features) if features is not None else _find_matrix(pathlib.Path(folder))
        with opening_matrix(self.features_path) as opened:
            self.captions = read_captions(self.dataset_path)
            if not self.captions.filenames:
                raise InputError(f'{self.dataset_path}: no images')
            self.features = opened(int(self.captions.image_ids.max()) + 1)
        self.provenance = read_provenance(self.features_path)
        self.digest = {'captions': self.captions.digest, 'features': sample_digest(self.features_path)}
        forget_unused()

    @property
    def feature_size(self):
        """D, the length of a feature vector."""
        return self.features.shape[1]

    @property
    def training_splits(self):
        """The splits that are trained on, those of TRAINING_SPLITS that are there; all of them where none is."""
        return [split for split in TRAINING_SPLITS if SPLITS.index(split) in self.captions.splits] or TRAINING_SPLITS

    def images(self, *splits):
        """The images of some splits, as places in `captions.filenames`: (n,) int.

        Raises:
            InputError: There are none.
        """
        chosen = np.flatnonzero(np.isin(self.captions.splits, [SPLITS.index(split) for split in splits]))
        if not len(chosen):
            there = collections.Counter(SPLITS[s] for s in self.captions.splits if s != _NO_SPLIT)
            raise InputError(f'{self.dataset_path}: no image is of the split {" or ".join(splits)} '
                             f'(there are: {", ".join(f"{n} {split}" for split, n in sorted(there.items()))})')
        return chosen

    def without(self, images):
        """The same dataset with some images in no split, so that nobody trains on them or scores them.

        Args:
            images (sequence of int): Their places in `captions.filenames`.
        """
        splits = self.captions.splits.copy()
        splits[images] = _NO_SPLIT
        other = copy.copy(self)
        other.captions = dataclasses.replace(self.captions, splits=splits)
        return other

    def references(self, image):
        """The sentences of an image: a list of lists of tokens."""
        sentences = self.captions.sentences
        return [self.captions.sentence(j) for j in range(sentences[image], sentences[image + 1])]

    def sentences(self, *splits):
        """The sentences of some splits, without empty ones, which describe nothing.

        Returns:
            tuple: `(rows, tokens, bounds)`: the row in the feature matrix of each sentence's image, (n,) int64; the
            tokens of all, as places in `captions.words`, int32; and sentence i's part of them,
            tokens[bounds[i]:bounds[i + 1]], (n + 1,) int64.

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
        spoken = stops > starts
        if not spoken.any():
            raise InputError(f'{self.dataset_path}: the images of the split {" or ".join(splits)} have no captions')
        starts, stops = starts[spoken], stops[spoken]
        return rows[spoken], captions.tokens[_ranges(starts, stops)], np.concatenate([[0], np.cumsum(stops - starts)])

    def word_counts(self, *splits):
        """How often each word stands in the captions of some splits, and how many captions those are.

        Returns:
            tuple: `(counts, captions)`: a dict of word to count, and an int.
        """
        _, tokens, bounds = self.sentences(*splits)
        counts = np.bincount(tokens, minlength=len(self.captions.words))
        return {word: int(n) for word, n in zip(self.captions.words, counts, strict=True) if n}, len(bounds) - 1


def _ranges(starts, stops):
    """The numbers of [start, stop) for each pair, one after another."""
    lengths = stops - starts
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def _find_matrix(folder):
    for name in _MATRICES:
        if (folder / name).exists():
            return folder / name
    raise InputError(f'{folder}: no feature matrix in it (looked for {", ".join(_MATRICES)})')


def provenance_path(features_path):
    """Where the provenance of a feature matrix is recorded: beside it, under its name with `.json` behind."""
    return pathlib.Path(f'{os.fspath(features_path)}.json')


def read_provenance(features_path):
    """The recorded provenance of a feature matrix: a dict with `encoder` and `preprocessing`, or None where nothing is
    recorded.

    Raises:
        InputError: There is a record and it does not name both.
    """
    path = provenance_path(features_path)
    if not path.exists():
        return None
    record = current_keys(read_json(path))
    if not (isinstance(record, dict) and all(isinstance(record.get(key), str) for key in ('encoder', 'preprocessing'))):
        raise InputError(f'{path}: should name the "encoder" and the "preprocessing" that made the features')
    return {key: record[key] for key in ('encoder', 'preprocessing')}


def record_provenance(features_path, encoder, preprocessing):
    """Records the provenance of a feature matrix beside it, as `read_provenance` finds it; what else stands there is
    kept.

    Raises:
        InputError: It cannot be written.
    """
    path = provenance_path(features_path)
    before = current_keys(read_json(path)) if path.exists() else {}
    try:
        write_json(path, {**(before if isinstance(before, dict) else {}), 'encoder': encoder,
                          'preprocessing': preprocessing})
    except OSError as e:
        raise unwritable(path, e) from e
