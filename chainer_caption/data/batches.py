"""Minibatches of captions: a dataset, a Chainer iterator, and a converter that packs them without padding."""
from collections.abc import Sequence
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.errors import InputError

# Longer captions are cut to this many words, and the cut end is not taught as an end. It bounds the memory of an
# update; the longest captions of public datasets have some fifty words.
MAX_WORDS = 256
#: What a model reads of some images, NumPy or CuPy: vectors (B, D), grids (B, L, D), or a tuple of both.
Features = Any


class CaptionDataset(chainer.dataset.DatasetMixin):
    """Captions as examples `(row, targets)`: the feature row of the image, and the word ids to predict, ending with
    `</S>` unless the caption was cut at MAX_WORDS. Caption i has rows[i] of rows (n,) int, and the word ids
    words[bounds[i]:bounds[i + 1]] of words, int32, and bounds, (n + 1,) int."""

    def __init__(self, rows: np.ndarray, words: np.ndarray, bounds: np.ndarray) -> None:
        self.rows, self._words, self._bounds = np.asarray(rows), words, bounds
        lengths = np.diff(bounds)
        self.overlong = int(np.count_nonzero(lengths > MAX_WORDS))              #: the number of captions that are cut
        self.lengths = np.where(lengths > MAX_WORDS, MAX_WORDS, lengths + 1)    #: targets of each caption, (n,) int

    @classmethod
    def from_dataset(cls, dataset: Any, vocabulary: Any, *splits: str, unknown: bool = True) -> 'CaptionDataset':
        """The captions of some splits of a `Dataset`, in the ids of a `Vocabulary`; words that are not in it are
        `<UNK>`, or left out with `unknown=False`."""
        rows, tokens, bounds = dataset.sentences(*splits)
        words = vocabulary.encode(dataset.captions.words)[tokens]
        if not unknown:
            known = words != UNK
            words, bounds = words[known], np.concatenate([[0], np.cumsum(known)])[bounds]
        return cls(rows, words, bounds)

    def __len__(self) -> int:
        return len(self.rows)

    def get_example(self, i: int) -> tuple[int, np.ndarray]:
        start, stop = self._bounds[i:i + 2]
        words = self._words[start:stop]
        return self.rows[i], words[:MAX_WORDS] if len(words) > MAX_WORDS else np.append(words, np.int32(EOS))


class CaptionIterator(chainer.dataset.Iterator):
    """Minibatches of captions, in another random order every epoch; the last one of an epoch may be smaller.

    Captions of similar length are not grouped: the packed layout has no padding to save, and an update on short
    captions alone pulls the model towards them (figures in `scripts/BENCHMARKS.md`). The order of an epoch follows from
    the seed and the epoch's number, so that only the position in it is saved.

    The dataset is a `CaptionDataset`, or another one with `lengths`. `repeat` tells whether epochs follow the first.
    `shuffle=False` takes the captions in the order of their length, which is fastest for validation. `per_image` keeps
    the captions of an image together, for models that share work between them; those of the last image in a minibatch
    may continue in the next. `weights`, (captions,) float, is how often an epoch has each caption, None for once; of
    2.4, four tenths of the captions with that weight are drawn a third time, others in every epoch.
    `examples` is the number of captions in an epoch."""

    def __init__(self, dataset: Any, batch_size: int, repeat: bool = True, shuffle: bool = True, seed: int = 0,
                 per_image: bool = False, weights: np.ndarray | None = None) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        # Distinct weights, each with its captions.
        self._weights = [] if weights is None else [(weight, np.flatnonzero(weights == weight))
                                                    for weight in np.unique(weights).tolist()]
        self.examples = sum(round(weight * len(own)) for weight, own in self._weights) or len(dataset)
        self._images = np.unique(dataset.rows, return_inverse=True)[1] if per_image else None   # of each caption
        self._repeat, self._shuffle, self._seed = repeat, shuffle, seed
        self.reset()

    def reset(self) -> None:
        self.epoch, self.current_position, self.is_new_epoch, self._previous_epoch_detail = 0, 0, False, -1.
        self._order = self._make_order()

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    @property
    def upcoming(self) -> np.ndarray:
        """The indices of the examples of the next minibatch, (n,) int."""
        return self._order[self.current_position]

    @property
    def epoch_detail(self) -> float:
        return self.epoch + self.current_position / self.batches_per_epoch

    @property
    def previous_epoch_detail(self) -> float | None:
        return None if self._previous_epoch_detail < 0 else self._previous_epoch_detail

    def _make_order(self) -> list[np.ndarray]:
        lengths, images, rng = self.dataset.lengths, self._images, np.random.default_rng((self._seed, self.epoch))
        if self._shuffle:
            drawn = self._drawn(rng)
            keys = rng.permutation(len(drawn) if images is None else images.max() + 1)
            order = drawn[keys if images is None else np.argsort(keys[images[drawn]], kind='stable')]
        else:
            order = np.argsort(-lengths if images is None else images, kind='stable')
        batches = [order[i:i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        if not self._shuffle:
            return batches
        # The second shuffle puts the smaller minibatch anywhere.
        return [batches[i][np.argsort(-lengths[batches[i]], kind='stable')] for i in rng.permutation(len(batches))]

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        """The captions of an epoch, each as often as it is drawn, (examples,) int."""
        times = np.ones(len(self.dataset), np.int64)
        for weight, own in self._weights:
            times[own] = int(weight)
            times[rng.permutation(own)[:round(weight * len(own)) - int(weight) * len(own)]] += 1
        return np.repeat(np.arange(len(times)), times)

    def __next__(self) -> list:
        if not self._repeat and self.epoch > 0:
            raise StopIteration
        self._previous_epoch_detail = self.epoch_detail
        batch = [self.dataset[int(i)] for i in self._order[self.current_position]]
        self.current_position += 1
        self.is_new_epoch = self.current_position == len(self._order)
        if self.is_new_epoch:
            self.epoch, self.current_position = self.epoch + 1, 0
            if self._repeat:
                self._order = self._make_order()
        return batch

    next = __next__

    def serialize(self, serializer: Any) -> None:
        for name in ('current_position', 'epoch', 'is_new_epoch', '_previous_epoch_detail'):
            setattr(self, name, serializer(name.lstrip('_'), getattr(self, name)))
        if not (0 <= self.current_position < self.batches_per_epoch and 0 <= self.epoch < 2 ** 53):
            raise ValueError(f'no position {self.current_position} in epoch {self.epoch}')
        self._order = self._make_order()


class PackCaptions(chainer.dataset.Converter):
    """Chainer converter from a list of `(row, targets)` to the arguments of an `Architecture`.

    `features` are what the model reads (`Dataset.inputs`): vectors (N, D), grids (N, L, D), or a tuple of both, float32
    or float16. Rows of a memory-mapped array are read a minibatch at a time, those on the device taken there. With
    `per_image` the model gets the features of each image once, and the image of each caption. `vocabulary_size` is V of
    the model, which no word id may reach; None does not check it."""

    def __init__(self, features: Features, per_image: bool = False, vocabulary_size: int | None = None) -> None:
        self.features, self.per_image, self.vocabulary_size = features, per_image, vocabulary_size

    def __call__(self, batch: list, device: Any) -> tuple:
        """Packs a minibatch, a list of `(row, targets)`, on a `chainer.backend.Device`; None leaves it on the CPU.

        Returns `(features, words (N,) int32, targets (N,) int32, batch_sizes list of int)`; captions are in order of
        length, longest first, and N is the sum of their lengths. Features are (B, D), (B, L, D) or a tuple of both,
        float32. With `per_image` they are those of the distinct images, and there are two more arguments: None, and the
        index of each caption's image in them, (B,) int64, on the host. Raises InputError if a word id is outside the
        vocabulary."""
        batch = sorted(batch, key=lambda example: -len(example[1]))
        rows, images = np.array([row for row, _ in batch]), None
        words, targets, batch_sizes = pack([example[1] for example in batch], self.vocabulary_size)
        if device is not None:
            words, targets = device.send(words), device.send(targets)
        if self.per_image:
            rows, images = np.unique(rows, return_inverse=True)
        packed = take_rows(self.features, rows, device), words, targets, batch_sizes
        return packed if images is None else (*packed, None, images)

    def schedule(self, rows: np.ndarray, update: int) -> None:
        """Announces the rows that `get` is asked for at the next update; stored features need no preparation."""

    def get(self, rows: np.ndarray, update: int, device: Any) -> Features:
        """The features of images at an update: rows of the stored features, which never change."""
        return take_rows(self.features, rows, device)


class PackShare(PackCaptions):
    """Converter to one process's share of minibatches that several processes train on.

    Every process gets the whole minibatch, before features are read, and takes each `size`-th caption by length, or
    with `per_image` the captions of each `size`-th image. So shares take equally long, and the number of tokens of all
    is known without communication. `rank` is the number of this process, from 0, and `size` that of the processes;
    the other arguments are those of `PackCaptions`."""

    def __init__(self, features: Features, rank: int, size: int, per_image: bool = False,
                 vocabulary_size: int | None = None) -> None:
        super().__init__(features, per_image, vocabulary_size)
        self.rank, self.size = rank, size

    def __call__(self, batch: list, device: Any) -> tuple:
        """Packs a share, as `PackCaptions` does, with a fifth argument: the tokens of the whole minibatch over `size`,
        a float. With losses divided by it, the mean over processes of the losses, and of their gradients, is that of
        the whole minibatch, every token weighing the same."""
        tokens = sum(len(targets) for _, targets in batch) / self.size
        by_length = sorted(batch, key=lambda example: -len(example[1]))
        share = by_length[self.rank::self.size]
        if self.per_image:
            mine = set(sorted({row for row, _ in batch})[self.rank::self.size])
            share = [example for example in by_length if example[0] in mine]
        # The last minibatch of an epoch may have fewer captions than there are processes: a process without any packs
        # one that counts nothing.
        packed = super().__call__(share or by_length[-1:], device)
        return *packed[:4], tokens if share else float('inf'), *packed[5:]


def pack(captions: Sequence[np.ndarray], vocabulary_size: int | None = None) -> tuple[np.ndarray, np.ndarray, list]:
    """Packs captions, the targets of each, int32, longest first: step t holds word t of every caption that has one.

    Returns `(words, targets, batch_sizes)`: the words to read (N,) int32, which are the targets shifted by one behind
    `<S>`; the words to predict (N,) int32; and the number of captions that have a word at each step, a list of int.
    Raises InputError if a word id is negative or not below `vocabulary_size`, V, which None leaves unchecked; compiled
    loops do not check ids."""
    lengths = np.array([len(caption) for caption in captions])
    # The row of each caption's word t in the packed order: the rows of the steps before, then the caption's index.
    batch_sizes = np.searchsorted(-lengths, -np.arange(lengths[0]), side='left')
    starts = np.cumsum(batch_sizes) - batch_sizes
    caption = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(len(caption)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = starts[step] + caption
    flat = np.concatenate(captions)
    least, most = int(flat.min()), int(flat.max())
    if least < 0 or (vocabulary_size is not None and most >= vocabulary_size):
        raise InputError(f'a caption has the word id {least if least < 0 else most}, but the model has the ids 0 to '
                         f'{(vocabulary_size or 2 ** 31) - 1}; use the vocabulary that the model was made with')
    words, targets = np.empty((2, len(flat)), np.int32)
    targets[place] = flat
    words[place] = np.where(step == 0, BOS, np.concatenate([[BOS], flat[:-1]]))
    return words, targets, batch_sizes.tolist()


def captions_of_rows(batch_sizes: list[int]) -> np.ndarray:
    """The caption of each row of a packed minibatch, (N,) int64; `batch_sizes` as `pack` returns them."""
    return np.concatenate([np.arange(size) for size in batch_sizes])


def take_rows(features: Features, rows: np.ndarray, device: Any = None) -> Features:
    """The rows (B,) int of features (N, D), (N, L, D) or a tuple of both, float32 or float16, on the CPU (memory-mapped
    or not) or on the device: (B, D), (B, L, D) or a tuple, float32, on a `chainer.backend.Device` or the CPU (None).
    float16 becomes float32 on the device."""
    if isinstance(features, tuple):
        return tuple(take_rows(part, rows, device) for part in features)
    if isinstance(features, cuda.ndarray):
        return features[device.send(rows)].astype(np.float32, copy=False)
    taken = np.asarray(features[rows])
    if taken.dtype != np.float16:
        taken = np.asarray(taken, np.float32)
    return (taken if device is None else device.send(taken)).astype(np.float32, copy=False)
