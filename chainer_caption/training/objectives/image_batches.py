"""Minibatches of images, each with its captions, for objectives that compute the features of an image once."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import chainer
import chainer.functions as F
import numpy as np

from chainer_caption.data.batches import CaptionDataset, CaptionIterator, pack
from chainer_caption.training.updater import Objective


class Images:
    """The training images of a dataset that have captions, and an iterator over their numbers.

    Args:
        dataset: Dataset to train on.
        bundle: Bundle with the model and the vocabulary.
        converter: PackCaptions or OnlineFeatures, which gives the features.
        processes: Processes that share a minibatch.

    Attributes:
        data: CaptionDataset of their captions.
        rows: The row of each image's feature, (n,) int.
        bounds: Image i has the captions bounds[i] to bounds[i + 1] of the data, (n + 1,) int.
        iterator: CaptionIterator over the numbers of the images, made by `begin`.
    """

    def __init__(self, dataset: Any, bundle: Any, converter: Any, processes: Any) -> None:
        self.data = CaptionDataset.from_dataset(dataset, bundle.vocabulary, *dataset.training_splits)
        first = np.flatnonzero(np.diff(self.data.rows, prepend=-1))
        self.rows, self.bounds = self.data.rows[first], np.append(first, len(self.data))
        self._model, self._converter, self._processes = bundle.model, converter, processes

    def __len__(self) -> int:
        return len(self.rows)

    def begin(self, batch_size: int, seed: int) -> None:
        """Makes the iterator, with `batch_size` images a minibatch, at least one."""
        self.iterator = CaptionIterator(_Numbers(len(self)), max(1, batch_size), seed=seed)

    @staticmethod
    @chainer.dataset.converter()
    def converter(batch: list[int], device: Any) -> np.ndarray:
        """The numbers of a minibatch's images, the same in every process: (n,) int64, on the host."""
        return np.array(batch)

    def get(self, update: int, numbers: np.ndarray) -> tuple[np.ndarray, Any, bool]:
        """This process's share of a minibatch.

        Args:
            update: Number of the update.
            numbers: Numbers of the minibatch's images, (n,) int.

        Returns:
            tuple: The places of the share in the minibatch, (m,) int, at least one; the features of its images, of
            which OnlineFeatures makes a chainer.Variable; and whether the share counts. The last minibatch of an
            epoch may have fewer images than there are processes; the processes left over compute an image in vain.
        """
        places = self._processes.share(np.arange(len(numbers)))
        own, places = len(places) > 0, places if len(places) else np.arange(1)
        self._converter.schedule(self.rows[self._processes.share(self.iterator.upcoming)], update + 1)
        return places, self._converter.get(self.rows[numbers[places]], update, self._model.device), own

    def tokens(self, captions: np.ndarray, own: bool) -> float:
        """Number of tokens by which the loss of a share of some captions is divided.

        With it the mean over processes is the loss of the whole minibatch, in which every token has the same weight.
        """
        return int(self.data.lengths[captions].sum()) / self._processes.size if own else math.inf

    def pack(self, features: Any, places: Any, captions: Any, tokens: float) -> tuple[Any, ...]:
        """Packs captions into the model's arguments, as PackCaptions does.

        Args:
            features: Features of the images, a chainer.Variable or an array.
            places: The image of each caption, (B,) int.
            captions: The numbers of the captions, (B,) int.
            tokens: Number of tokens by which the loss is divided.
        """
        targets = [self.data[i][1] for i in captions]
        order = sorted(range(len(targets)), key=lambda i: -len(targets[i]))
        words, packed, batch_sizes = pack([targets[i] for i in order])
        device, rows = self._model.device, np.asarray(places)[order]
        words, packed = device.send(words), device.send(packed)
        if self._converter.per_image:
            return features, words, packed, batch_sizes, tokens, rows
        return repeated(features, rows, device), words, packed, batch_sizes, tokens


class _Numbers(chainer.dataset.DatasetMixin):
    """The numbers of images, as a CaptionIterator takes them: all equally long."""

    def __init__(self, count: int) -> None:
        self.lengths = np.ones(count, np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def get_example(self, i: int) -> int:
        return i


def repeated(features: Any, places: np.ndarray, device: Any) -> Any:
    """Rows of the features of images, repeated.

    Args:
        features: (n, …) float32, a chainer.Variable or an array, or a tuple of such.
        places: Which rows, (B,) int.
        device: Chainer device of the features.

    Returns:
        (B, …). For a variable this is a matrix product, whose gradient is one, too: scattering would be slow on the
        CPU and not reproducible on a GPU.
    """
    if isinstance(features, tuple):
        return tuple(repeated(each, places, device) for each in features)
    if not isinstance(features, chainer.Variable):
        return features[device.send(places)]
    return F.matmul(device.send(np.eye(len(features), dtype=np.float32)[places]), features)


class ImageMinibatches(Objective):
    """An objective of caption minibatches, on minibatches of images with all their captions.

    A minibatch has about `batch_size` captions, and the encoder runs once for each of its images.

    Args:
        objective: The objective that computes the loss.
    """
    by_image = True

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        # Read by the trainer, as those of the objective itself.
        self.__dict__.update({name: getattr(objective, name) for name in (
            'name', 'reports', 'columns', 'per_token', 'requires_model')})

    def setup(self, dataset: Any, bundle: Any, settings: Any, converter: Any, processes: Any,
              notice: Callable[[str], None]) -> None:
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
