"""Minibatches of images, each with its captions, for objectives that compute the features of an image once."""
import math
from typing import Any

import chainer
import chainer.functions as F
import numpy as np

from chainer_caption.data.batches import CaptionDataset, CaptionIterator, pack
from chainer_caption.training.updater import Objective, Say


class Images:
    """The training images of a dataset that have captions, and an iterator over their numbers.

    The `converter`, PackCaptions or OnlineFeatures, gives the features; the processes share a minibatch. `data` is the
    CaptionDataset of the captions; `rows` (n,) int is the row of each image's feature; image i has the captions
    `bounds[i]` to `bounds[i + 1]` of the data; `begin` makes the `iterator`.
    """

    def __init__(self, dataset: Any, bundle: Any, converter: Any, processes: Any) -> None:
        self.data = CaptionDataset.from_dataset(dataset, bundle.vocabulary, *dataset.training_splits)
        first = np.flatnonzero(np.diff(self.data.rows, prepend=-1))
        self.rows, self.bounds = self.data.rows[first], np.append(first, len(self.data))
        self._model, self._vocabulary_size = bundle.model, len(bundle.vocabulary)
        self._converter, self._processes = converter, processes

    def __len__(self) -> int:
        return len(self.rows)

    def begin(self, batch_size: int, seed: int, weights: np.ndarray | None = None) -> None:
        """Makes the iterator, with `batch_size` images a minibatch, at least one. `weights`, (n,) float, is how often
        an epoch has each image, None for once."""
        self.iterator = CaptionIterator(_Numbers(range(len(self))), max(1, batch_size), seed=seed, weights=weights)

    @staticmethod
    @chainer.dataset.converter()
    def converter(batch: list[int], device: Any) -> np.ndarray:
        """The numbers of a minibatch's images, the same in every process: (n,) int64, on the host."""
        return np.array(batch)

    def get(self, update: int, numbers: np.ndarray) -> tuple[np.ndarray, Any, bool]:
        """This process's share of an update's minibatch of images, whose numbers are (n,) int.

        Returns:
            The places of the share in the minibatch, (m,) int, at least one; the features of its images, of which
            OnlineFeatures makes a chainer.Variable; and whether the share counts. The last minibatch of an epoch may
            have fewer images than there are processes; the processes left over compute an image in vain.
        """
        places = self._processes.share(np.arange(len(numbers)))
        own, places = len(places) > 0, places if len(places) else np.arange(1)
        self._converter.schedule(self.rows[self._processes.share(self.iterator.upcoming)], update + 1)
        return places, self._converter.get(self.rows[numbers[places]], update, self._model.device), own

    def tokens(self, captions: np.ndarray, own: bool) -> float:
        """Number of tokens by which the loss of a share of some captions is divided. With it the mean over processes is
        the loss of the whole minibatch, in which every token has the same weight."""
        return int(self.data.lengths[captions].sum()) / self._processes.size if own else math.inf

    def pack(self, features: Any, places: Any, captions: Any, tokens: float) -> tuple[Any, ...]:
        """Packs captions into the model's arguments, as PackCaptions does. `places` and `captions`, (B,) int, are the
        image of each caption in the features, a chainer.Variable or an array, and its number; `tokens` is the number
        of tokens by which the loss is divided."""
        targets = [self.data[i][1] for i in captions]
        order = sorted(range(len(targets)), key=lambda i: -len(targets[i]))
        words, packed, batch_sizes = pack([targets[i] for i in order], self._vocabulary_size)
        device, rows = self._model.device, np.asarray(places)[order]
        words, packed = device.send(words), device.send(packed)
        if self._converter.per_image:
            return features, words, packed, batch_sizes, tokens, rows
        return repeated(features, rows, device), words, packed, batch_sizes, tokens


class _Numbers(list):
    """The numbers of images, as a CaptionIterator takes them: all equally long."""

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self), np.int64)


def repeated(features: Any, places: np.ndarray, device: Any) -> Any:
    """The rows `places`, (B,) int, of features on a device, repeated: (B, …).

    Features are (n, …) float32, a chainer.Variable or an array, or a tuple of such. For a variable this is a matrix
    product, whose gradient is one, too: scattering would be slow on the CPU and not reproducible on a GPU.
    """
    if isinstance(features, tuple):
        return tuple(repeated(each, places, device) for each in features)
    if not isinstance(features, chainer.Variable):
        return features[device.send(places)]
    return F.matmul(device.send(np.eye(len(features), dtype=np.float32)[places]), features)


class ImageMinibatches(Objective):
    """An objective of caption minibatches, on minibatches of images with all their captions.

    A minibatch has about `batch_size` captions, and the encoder runs once for each of its images."""
    by_image = True

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        for name in ('name', 'reports', 'columns', 'per_token', 'requires_model'):      # read by the trainer
            setattr(self, name, getattr(objective, name))

    def setup(self, dataset: Any, bundle: Any, settings: Any, converter: Any, processes: Any, notice: Say) -> None:
        self._objective.setup(dataset, bundle, settings, converter, processes, notice)
        self._images = images = Images(dataset, bundle, converter, processes)
        self.captions = len(images.data)
        images.begin(round(settings.batch_size * len(images) / self.captions), settings.seed)
        self.iterator, self.converter = images.iterator, images.converter

    def loss(self, update: int, *batch: Any) -> chainer.Variable:
        numbers, images = batch[0], self._images
        places, features, own = images.get(update, numbers)
        captions = [np.arange(*images.bounds[number:number + 2]) for number in numbers]
        mine = [captions[place] for place in places]
        return self._objective.loss(update, *images.pack(
            features, np.repeat(np.arange(len(mine)), list(map(len, mine))), np.concatenate(mine),
            images.tokens(np.concatenate(captions), own)))
