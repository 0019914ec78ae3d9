"""Minibatches of images, each with its captions: for objectives that see an image once."""
import chainer
import chainer.functions as F
import numpy as np

from chainer_caption.data.batches import CaptionDataset, CaptionIterator, pack


class Images:
    """The training images of a dataset that have captions.

    Args:
        dataset (Dataset): The dataset.
        current (Bundle): What is trained.
        converter (PackCaptions or OnlineFeatures): Sees them.
        processes (Processes): Those that share a minibatch.

    Attributes:
        data (CaptionDataset): Their captions.
        rows (numpy.ndarray): The row of each image's feature, (n,) int.
        bounds (numpy.ndarray): Image i has the captions bounds[i] to bounds[i + 1] of the data, (n + 1,) int.
        iterator (CaptionIterator): Over their numbers, once it is made with `begin`.
    """

    def __init__(self, dataset, current, converter, processes):
        self.data = CaptionDataset.from_dataset(dataset, current.vocabulary, *dataset.training_splits)
        first = np.flatnonzero(np.diff(self.data.rows, prepend=-1))
        self.rows, self.bounds = self.data.rows[first], np.append(first, len(self.data))
        self._model, self._converter, self._processes = current.model, converter, processes

    def __len__(self):
        return len(self.rows)

    def begin(self, batch_size, seed):
        """Makes the iterator, of so many images a minibatch (at least one)."""
        self.iterator = CaptionIterator(_Numbers(len(self)), max(1, batch_size), seed=seed)

    @staticmethod
    @chainer.dataset.converter()
    def converter(batch, device):
        """The numbers of a minibatch's images, which every process is given: (n,) int64, on the host."""
        return np.array(batch)

    def get(self, update, numbers):
        """What this process sees of a minibatch.

        Args:
            update (int): The number of the update.
            numbers (numpy.ndarray): Those of the minibatch's images.

        Returns:
            tuple: The places of this process's share in the minibatch, (n,) int, at least one; the features of its
            images, (n, D), which may be a chainer.Variable; and whether the share is its own. The last minibatch of
            an epoch may have fewer images than there are processes: what is left over is seen for nothing.
        """
        places = self._processes.share(np.arange(len(numbers)))
        own, places = len(places) > 0, places if len(places) else np.arange(1)
        after = self.iterator.upcoming
        self._converter.schedule(self.rows[self._processes.share(after)], update + 1)
        return places, self._converter.get(self.rows[numbers[places]], update, self._model.device), own


class _Numbers(chainer.dataset.DatasetMixin):
    """The numbers of images, as a CaptionIterator takes them: all equally long."""

    def __init__(self, count):
        self.lengths = np.ones(count, np.int64)

    def __len__(self):
        return len(self.lengths)

    def get_example(self, i):
        return i


def repeated(features, places, device):
    """Rows of the features of images, each as often as it is asked for.

    Args:
        features (chainer.Variable or array): (n, D), float32.
        places (numpy.ndarray): Which rows, (B,) int.
        device (chainer.backend.Device): Where they are.

    Returns:
        chainer.Variable or array: (B, D). Of a variable it is a product, whose gradient is one, too: to scatter it
        would be slow on the CPU, and on a GPU not the same sum each time.
    """
    if not isinstance(features, chainer.Variable):
        return features[device.send(places)]
    return F.matmul(device.send(np.eye(len(features), dtype=np.float32)[places]), features)


def word_loss(model, features, places, captions, tokens, update_key=None):
    """The loss of captions, nats per token.

    Args:
        model (Architecture): The captioner, which reports.
        features (chainer.Variable or array): Of the images, (n, D).
        places (numpy.ndarray): The image of each caption, (B,) int.
        captions (list of array): Their targets, (B,).
        tokens, update_key: As for the model.

    Returns:
        chainer.Variable: () float32.
    """
    order = sorted(range(len(captions)), key=lambda i: -len(captions[i]))
    words, targets, batch_sizes = pack([captions[i] for i in order], getattr(model, 'vocabulary_size', None))
    words, targets = model.device.send(words), model.device.send(targets)
    places = np.asarray(places)[order]
    if getattr(model, 'per_image', False):
        return model(features, words, targets, batch_sizes, tokens, places, update_key=update_key)
    return model(repeated(features, places, model.device), words, targets, batch_sizes, tokens, update_key=update_key)
