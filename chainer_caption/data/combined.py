"""Several datasets as one, as if their images, captions and features had been put into one by hand."""
import copy
import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainer_caption.data.captions import Captions
from chainer_caption.data.dataset import Dataset
from chainer_caption.errors import InputError


class CombinedDataset(Dataset):
    """A dataset of the images of several, one after another.

    The `imgid` of an image is its row among the feature rows of all. Features stay where they are, mapped or not. The
    datasets need features of the same encoder and preprocessing, of the same size, and captions in the same tokens;
    an InputError names the first that differs. `parts` are the datasets, as they are read.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self._reads = next((kind for kind, name in (('vectors', 'features'), ('grids', 'grids'))
                            if all(getattr(part, name) is not None for part in parts)), 'vectors')
        self.parts = [part.reading(self._reads) for part in parts]
        first = self.parts[0]
        for part in self.parts:
            if (found := part.captions.tokenizer) != (wanted := first.captions.tokenizer):
                raise InputError(f'{part.dataset_path}: has captions in {found}, but {first.dataset_path} in {wanted}')
        self.dataset_path = pathlib.Path(' + '.join(str(part.dataset_path) for part in self.parts))
        self._starts = np.cumsum([0, *(len(part.inputs(self._reads)) for part in self.parts)])
        self.captions = _joined([part.captions for part in self.parts], self._starts)
        self._gather()

    def _gather(self) -> None:
        first = self.parts[0]
        for part in self.parts[1:]:
            one, other = (each.provenance or {'encoder': 'an encoder that is not recorded', 'preprocessing': 'unknown'}
                          for each in (first, part))
            if one != other:
                made, by = ('{encoder} ({preprocessing})'.format(**each) for each in (other, one))
                raise InputError(f'{part.features_path}: features of {made}, but {first.features_path} of {by}; '
                                 'combined datasets need the same (check-features --write records it)')
        arrays: Any = [_stacked(self.parts, name) if self._reads in (kind, 'both') else None
                       for kind, name in (('vectors', 'features'), ('grids', 'grids'))]
        self.features, self.grids = arrays
        self.features_path = pathlib.Path(' + '.join(str(part.features_path) for part in self.parts))
        self.provenance = first.provenance
        self.digest: dict[str, Any] = {'datasets': [part.digest for part in self.parts]}

    @property
    def cache_path(self) -> pathlib.Path:
        return self.parts[0].dataset_path

    def reading(self, reads: str) -> Dataset:
        if reads == self._reads:
            return self
        other = copy.copy(self)
        other._reads, other.parts = reads, [part.reading(reads) for part in self.parts]
        other._gather()
        return other

    def weights(self, rows: np.ndarray, of_parts: Sequence[float]) -> np.ndarray:
        """How often an epoch has the captions of images, whose features have these `rows`, (n,) int: (n,) float, at
        least 1. `of_parts` has a number for each dataset; the least stands for once."""
        return (np.array(of_parts) / min(of_parts))[np.searchsorted(self._starts, rows, 'right') - 1]


class StackedRows:
    """The rows of several arrays (Nᵢ, …), float16 or float32, one after another: an array (N, …) whose rows can be
    taken by a slice or by indices, (n,) int, without a copy of all. `dtype` is float32 unless all are float16."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays, self._starts = arrays, np.cumsum([0, *map(len, arrays)])
        self.shape, self.dtype = (int(self._starts[-1]), *arrays[0].shape[1:]), np.result_type(*arrays)
        self.ndim, self.nbytes = len(self.shape), int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f'rows from {rows.min()} to {rows.max()}, but there are {len(self)}')
        part = np.searchsorted(self._starts, rows, 'right') - 1
        taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number in np.unique(part):
            taken[part == number] = self._arrays[number][rows[part == number] - self._starts[number]]
        return taken


def _stacked(parts: Sequence[Dataset], name: str) -> StackedRows:
    arrays = [getattr(part, name) for part in parts]
    for array, part in zip(arrays, parts, strict=True):
        if array.shape[1:] != arrays[0].shape[1:]:
            size, wanted = (' x '.join(map(str, each.shape[1:])) for each in (array, arrays[0]))
            raise InputError(f'{part.features_path}: has {size} numbers an image, but {parts[0].features_path} has '
                             f'{wanted}; combined datasets need the same')
    return StackedRows(arrays)


def _joined(parts: Sequence[Captions], starts: np.ndarray) -> Captions:
    """The captions of several datasets, the rows of whose features begin at `starts`."""
    numbers: dict[str, int] = {}
    tokens = [np.array([numbers.setdefault(word, len(numbers)) for word in part.words], np.int32)[part.tokens]
              for part in parts]
    return dataclasses.replace(
        parts[0], filenames=[name for part in parts for name in part.filenames],
        image_ids=np.concatenate([part.image_ids + start for part, start in zip(parts, starts[:-1], strict=True)]),
        coco_ids=np.concatenate([part.coco_ids for part in parts]),
        splits=np.concatenate([part.splits for part in parts]), sentences=_bounds([part.sentences for part in parts]),
        bounds=_bounds([part.bounds for part in parts]), tokens=np.concatenate(tokens), words=list(numbers),
        digest=hashlib.sha256(' '.join(part.digest for part in parts).encode()).hexdigest())


def _bounds(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Bounds, each list from 0 on, of what follows one another."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part) for part in parts]))]).astype(np.int64)


def combine(datasets: Sequence[Dataset]) -> Dataset:
    """Several datasets as one, or the one."""
    return datasets[0] if len(datasets) == 1 else CombinedDataset(datasets)
