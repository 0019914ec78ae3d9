"""Captions into minibatches: a dataset, a Chainer iterator, and a converter that packs them without padding."""
import chainer
import numpy as np

from chainer_caption.data.vocabulary import BOS, EOS, UNK

# Longer captions are cut to this many words, and their cut end is not taught as an end. It bounds the memory of an
# update; in the public datasets, whose longest captions have some fifty words, it cuts nothing.
MAX_WORDS = 256


class CaptionDataset(chainer.dataset.DatasetMixin):
    """The captions of some images, each with the row of its image's feature.

    Args:
        rows (array): The row in the feature matrix of each caption's image, (n,) int.
        words (array): The word ids of all captions, one after another, int32.
        bounds (array): Caption i has words[bounds[i]:bounds[i + 1]]; (n + 1,) int.

    An example is `(row, targets)`: the targets are the word ids to predict, ending with `</S>` unless the caption was
    cut at MAX_WORDS.
    """

    def __init__(self, rows, words, bounds):
        self.rows = np.asarray(rows)
        self._words = words
        self._bounds = bounds
        lengths = np.diff(bounds)
        self.overlong = int(np.count_nonzero(lengths > MAX_WORDS))
        #: Targets of each caption, (n,) int.
        self.lengths = np.where(lengths > MAX_WORDS, MAX_WORDS, lengths + 1)

    @classmethod
    def from_dataset(cls, dataset, vocabulary, *splits, unknown=True):
        """The captions of some splits of a dataset, in the ids of a vocabulary; words that are not in it are `<UNK>`,
        or with `unknown=False` left out."""
        rows, tokens, bounds = dataset.sentences(*splits)
        words = vocabulary.encode(dataset.captions.words)[tokens]
        if not unknown:
            known = words != UNK
            words, bounds = words[known], np.concatenate([[0], np.cumsum(known)])[bounds]
        return cls(rows, words, bounds)

    def __len__(self):
        return len(self.rows)

    def get_example(self, i):
        start, stop = self._bounds[i:i + 2]
        words = self._words[start:stop]
        return self.rows[i], words[:MAX_WORDS] if len(words) > MAX_WORDS else np.append(words, np.int32(EOS))


class CaptionIterator(chainer.dataset.Iterator):
    """Minibatches of captions, drawn at random in a new order every epoch.

    Captions of like length are not put together: the packed layout wastes nothing on others, and an update that has
    seen nothing but short captions pulls the model towards them (`scripts/BENCHMARKS.md` has the figures).

    The order of an epoch follows from the seed and the epoch's number alone, so that all that has to be saved is the
    place in it. The last minibatch of an epoch may be smaller.

    Args:
        dataset (CaptionDataset): The captions.
        batch_size (int): Captions a minibatch.
        repeat (bool): Whether to begin again after the last epoch.
        shuffle (bool): With False, all captions in the order of their length: for validation, where order changes
            nothing, that is the fastest.
        seed (int): The run's seed.
        per_image (bool): Whether to keep the captions of an image together, for models whose work they share; those
            of an image that comes last in a minibatch may go on in the next.
    """

    def __init__(self, dataset, batch_size, repeat=True, shuffle=True, seed=0, per_image=False):
        self.dataset = dataset
        self.batch_size = batch_size
        # The number of each caption's image.
        self._images = np.unique(dataset.rows, return_inverse=True)[1] if per_image else None
        self._repeat = repeat
        self._shuffle = shuffle
        self._seed = seed
        self.reset()

    def reset(self):
        self.epoch = 0
        self.is_new_epoch = False
        self.current_position = 0
        self._previous_epoch_detail = -1.
        self._order = self._make_order()

    @property
    def batches_per_epoch(self):
        return -(-len(self.dataset) // self.batch_size)

    @property
    def upcoming(self):
        """The numbers of the examples of the next minibatch, (n,) int."""
        return self._order[self.current_position]

    @property
    def epoch_detail(self):
        return self.epoch + self.current_position / self.batches_per_epoch

    @property
    def previous_epoch_detail(self):
        return None if self._previous_epoch_detail < 0 else self._previous_epoch_detail

    def _make_order(self):
        lengths, images = self.dataset.lengths, self._images
        if not self._shuffle:
            order = np.argsort(-lengths if images is None else images, kind='stable')
            return [order[i:i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        rng = np.random.default_rng((self._seed, self.epoch))
        order = rng.permutation(len(lengths)) if images is None else \
            np.argsort(rng.permutation(images.max() + 1)[images], kind='stable')
        batches = [order[i:i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        # The second shuffle puts the smaller minibatch anywhere.
        return [batches[i][np.argsort(-lengths[batches[i]], kind='stable')] for i in rng.permutation(len(batches))]

    def __next__(self):
        if not self._repeat and self.epoch > 0:
            raise StopIteration
        self._previous_epoch_detail = self.epoch_detail
        batch = [self.dataset[int(i)] for i in self._order[self.current_position]]
        self.current_position += 1
        self.is_new_epoch = self.current_position == len(self._order)
        if self.is_new_epoch:
            self.epoch += 1
            self.current_position = 0
            if self._repeat:
                self._order = self._make_order()
        return batch

    next = __next__

    def serialize(self, serializer):
        self.current_position = serializer('current_position', self.current_position)
        self.epoch = serializer('epoch', self.epoch)
        self.is_new_epoch = serializer('is_new_epoch', self.is_new_epoch)
        self._previous_epoch_detail = serializer('previous_epoch_detail', self._previous_epoch_detail)
        if not (0 <= self.current_position < self.batches_per_epoch and 0 <= self.epoch < 2 ** 53):
            raise ValueError(f'no place {self.current_position} in epoch {self.epoch}')
        self._order = self._make_order()


class PackCaptions(chainer.dataset.Converter):
    """A Chainer converter: a list of `(row, targets)` into the arguments of `ShowAndTell`.

    Args:
        features (array): The feature matrix, (N, D) float32 or float16; a memory map does. Where it is already on the
            device, rows are taken there.
        per_image (bool): Whether the model is one that is `per_image`, which is given the features of each image
            once and told whose each caption is.
    """

    def __init__(self, features, per_image=False):
        self.features = features
        self.per_image = per_image

    def __call__(self, batch, device):
        """Packs a minibatch.

        Args:
            batch (list): `(row, targets)` of each caption.
            device (chainer.backend.Device or None): Where the arrays go. None leaves them on the CPU.

        Returns:
            tuple: `(features (B, D) float32, words (N,) int32, targets (N,) int32, batch_sizes list of int)`; captions
            are in order of length, longest first, and N is the sum of their lengths. With `per_image` the features are
            (P, D), of the distinct images, and there are two more: None, and the row of each caption's image in
            them, (B,) int64, on the host.
        """
        batch = sorted(batch, key=lambda example: -len(example[1]))
        rows = np.array([row for row, _ in batch])
        words, targets, batch_sizes = pack([example[1] for example in batch])
        if device is not None:
            words, targets = device.send(words), device.send(targets)
        if not self.per_image:
            return take_rows(self.features, rows, device), words, targets, batch_sizes
        rows, images = np.unique(rows, return_inverse=True)
        return take_rows(self.features, rows, device), words, targets, batch_sizes, None, images

    def schedule(self, rows, update):
        """Told which rows `see` will be asked for at the next update; they are there."""

    def get(self, rows, update, device):
        """The features of images at an update: those rows of the matrix, which are always the same."""
        return take_rows(self.features, rows, device)


class PackShare(PackCaptions):
    """One process's share of minibatches that several processes work on.

    Every process is given the whole minibatch, which costs nothing before the features are read, and takes each
    `size`-th caption by length, or with `per_image` the captions of each `size`-th image; so the shares take
    equally long, and how many tokens all of them have together is known without asking.

    Args:
        features, per_image: As for `PackCaptions`.
        rank (int): Which of the processes this is, from 0.
        size (int): How many there are.
    """

    def __init__(self, features, rank, size, per_image=False):
        super().__init__(features, per_image)
        self.rank = rank
        self.size = size

    def __call__(self, batch, device):
        """Packs a share.

        Returns:
            tuple: What `PackCaptions` returns and as the fifth, a float, the tokens of the whole minibatch over `size`:
            with losses divided by that, the mean over processes of the losses, and of their gradients, is that of the
            whole minibatch, every token weighing the same.
        """
        tokens = sum(len(targets) for _, targets in batch) / self.size
        by_length = sorted(batch, key=lambda example: -len(example[1]))
        # The last minibatch of an epoch may have fewer captions than there are processes: what is left over is read
        # for nothing.
        share = by_length[self.rank::self.size]
        if self.per_image:
            mine = set(sorted({row for row, _ in batch})[self.rank::self.size])
            share = [example for example in by_length if example[0] in mine]
        packed = super().__call__(share or by_length[-1:], device)
        return *packed[:4], tokens if share else float('inf'), *packed[5:]


def pack(captions):
    """Packs captions, longest first: step t holds word t of every caption that has one.

    Args:
        captions (list of array): The targets of each caption, int32, in order of falling length.

    Returns:
        tuple: `(words, targets, batch_sizes)`: the words to read (N,) int32, which are the targets moved on by one
        behind `<S>`; the words to predict (N,) int32; and the captions that have a word at each step, a list of int.
    """
    lengths = np.array([len(caption) for caption in captions])
    # Where each caption's word t stands in the packed order: the rows of the steps before, then its own place.
    steps = np.arange(lengths[0])
    batch_sizes = np.searchsorted(-lengths, -steps, side='left')
    starts = np.concatenate([[0], np.cumsum(batch_sizes)[:-1]])
    caption = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(len(caption)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = starts[step] + caption
    flat = np.concatenate(captions)
    targets = np.empty(len(flat), np.int32)
    targets[place] = flat
    words = np.empty(len(flat), np.int32)
    words[place] = np.where(step == 0, BOS, np.concatenate([[BOS], flat[:-1]]))
    return words, targets, batch_sizes.tolist()


def captions_of_rows(batch_sizes):
    """Which of the captions each row of a packed minibatch is of, (N,) int64; `batch_sizes` as `pack` gives them."""
    return np.concatenate([np.arange(size) for size in batch_sizes])


def take_rows(features, rows, device=None):
    """Rows of a feature matrix, float32, on a device.

    Args:
        features (array): (N, D) float32 or float16, on the CPU (a memory map does) or on the device.
        rows (numpy.ndarray): Which rows, (B,) int.
        device (chainer.backend.Device or None): None leaves them on the CPU.

    Returns:
        array: (B, D) float32.
    """
    if isinstance(features, np.ndarray):
        taken = np.asarray(features[rows], np.float32)
        return taken if device is None else device.send(taken)
    return features[device.send(rows)].astype(np.float32, copy=False)
