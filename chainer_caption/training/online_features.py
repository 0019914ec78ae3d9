"""What a training sees of its images where the image encoder learns, too: features that the encoder makes of them as
it is at the moment, in the place of stored ones.
"""
import hashlib
import json

import chainer
import numpy as np

from chainer_caption.data import SPLITS
from chainer_caption.errors import InputError
from chainer_caption.features.encoders.stages import run_stages, split
from chainer_caption.features.folders import find_in_folder
from chainer_caption.features.prefetch import BATCH
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.training.augmented_loader import AugmentedLoader
from chainer_caption.training.extensions import EveryEpochs
from chainer_caption.training.frozen_layers import FrozenLayers


def find_training_images(dataset, folder, say):
    """Finds the images that a training needs: those to learn from and those of `val`.

    Args:
        dataset (Dataset): The dataset.
        folder (str or os.PathLike): Where they are.
        say (callable): Takes a notice.

    Returns:
        tuple: The dataset without those that are not there; of the others the paths, a dict by the rows of their
        features, in the dataset's order; and what tells which they are, a str.

    Raises:
        InputError: There is no such folder, or none of them is in it.
    """
    names, splits = dataset.captions.filenames, dataset.captions.splits
    wanted = np.flatnonzero(np.isin(splits, [SPLITS.index(name) for name in (*dataset.training_splits, 'val')]))
    found = find_in_folder([names[place] for place in wanted], folder)
    missing = [place for place in wanted if names[place] not in found]
    if len(missing) == len(wanted):
        raise InputError(f'{folder}: holds no image of the dataset, the first of which is {names[0]}')
    if missing:
        say(f'{folder}: {len(missing):,} of {len(wanted):,} images are not in it and are left out, the first is '
            f'{names[missing[0]]}')
    there = [place for place in wanted if names[place] in found]
    digest = hashlib.sha256(json.dumps([names[place] for place in there]).encode()).hexdigest()
    paths = {int(dataset.captions.image_ids[place]): found[names[place]] for place in there}
    return dataset.without(missing), paths, f'{len(there)} ({digest[:12]})'


class OnlineFeatures:
    """Sees images by an encoder whose upper stages learn together with the captioner.

    An objective takes it as it takes the converter of stored features. The figures on `val` are of features that
    `refresh` makes once an epoch.

    Args:
        dataset (Dataset): On what is trained, from `find_training_images`.
        current (Bundle): What is trained; it has an encoder.
        settings (Settings): With `finetune`.
        paths (dict): The images, by the rows of their features.
        device (chainer.backend.Device): Where.
        processes (Processes): Those that train together.
        progress (file or None): A terminal to draw a progress bar on.
        say (callable): Takes notices.

    Attributes:
        dataset (Dataset): Without the images that cannot be read. Its features are those of `val` as of the last
            `refresh`, and otherwise zero.
        features (numpy.ndarray): Those.
        encoder (chainer.Link): The parameters of the encoder that learn.
        target (chainer.Chain): They and the captioner.
    """

    def __init__(self, dataset, current, settings, paths, device, processes, progress=None, say=lambda line: None):
        self._encoder, self._device, self._processes = current.encoder, device, processes
        self._encoder.to_device(device)
        below, self._above = split(self._encoder, settings.finetune)
        preprocessing = PREPROCESSINGS[current.provenance['preprocessing']]
        lower = FrozenLayers(self._encoder, below, preprocessing)
        # Prepared images take too much room to be kept, and those that are different each time cannot be.
        live = settings.augment or not below
        validated = set(_rows(dataset, 'val'))
        rows = [row for row in paths if not live or row in validated]
        # Without validation images there may be none to keep.
        self._kept, failed = processes.one_after_another(
            lambda: lower.of_images([paths[row] for row in rows], dataset.dataset_path, progress)) \
            if rows else (None, {})
        self._places = {row: place for place, row in enumerate(rows)}
        self._live = AugmentedLoader(lower, paths, preprocessing, settings, say) if live else None
        for place, reason in failed.items():
            say(f'{paths[rows[place]]}: {reason}; left out')
        unreadable = np.isin(dataset.captions.image_ids, [rows[place] for place in failed])
        self.dataset = dataset.reading('vectors').without(np.flatnonzero(unreadable))
        self.dataset.provenance = current.provenance
        # Of a large dataset the system has memory for those rows alone that are written.
        self.features = np.zeros((len(self.dataset.features), current.model.feature_size), np.float32)
        self.dataset.features = self.features
        self.encoder = _learning(self._encoder, self._above)
        self.target = chainer.Chain(captioner=current.model, encoder=self.encoder)
        self.target.to_device(device)

    def schedule(self, rows, update):
        """Says which images the next update will see, so that they are ready by then; arguments as for `see`."""
        if self._live is not None:
            self._live.schedule(rows, update)

    def get(self, rows, update, device):
        """The features of images, with all that their gradients need.

        Args:
            rows (numpy.ndarray): The rows of their features in the dataset, (n,) int.
            update (int): The number of the update.
            device (chainer.backend.Device): That of the training.

        Returns:
            chainer.Variable: (n, D), float32.
        """
        x = self._of_rows(rows) if self._live is None else self._live(rows, update)
        self._encoder.cleargrads()                      # of what has a gradient and does not learn
        return self._features(x)

    def refresh(self):
        """Makes the features of `val` anew. Each process makes a part of them for all."""
        rows = _rows(self.dataset, 'val')
        batches = [rows[i:i + BATCH] for i in range(0, len(rows), BATCH)]
        with chainer.no_backprop_mode():
            made = [chainer.get_device('@numpy').send(self._features(self._of_rows(batch)).array)
                    for batch in self._processes.share(batches)]
        for rank, share in enumerate(self._processes.broadcast(self._processes.gather(made))):
            for batch, features in zip(batches[rank::self._processes.size], share, strict=True):
                self.features[batch] = features

    def _of_rows(self, rows):
        return self._device.send(np.ascontiguousarray(self._kept[[self._places[row] for row in rows]]))

    def _features(self, x):
        with chainer.using_config('train', False):      # batch normalisation stays as it is
            return run_stages(self._above, x)


def _rows(dataset, split):
    captions = dataset.captions
    return captions.image_ids[captions.splits == SPLITS.index(split)].tolist()


def _learning(encoder, stages):
    """A link that has the parameters of some stages, but for the scales of batch normalisation: what a convolution does
    after it has one does itself."""
    link = chainer.Link()
    link.to_device(encoder.device)                      # or its parameters would come to the CPU
    with link.init_scope():
        for name in (name for stage in stages for name in stage.links):
            for path, param in encoder[name].namedparams():
                if not path.endswith('/gamma'):
                    setattr(link, name + path.replace('/', '_'), param)
    return link


class RefreshFeatures(chainer.training.Extension):
    """Has a OnlineFeatures look at the validation images before anything is measured on them.

    Args:
        online_features (OnlineFeatures): It.
        weights (callable): Gives a context manager within which the encoder has the weights that are validated.
    """
    trigger = EveryEpochs()
    priority = chainer.training.PRIORITY_WRITER + 1

    def __init__(self, online_features, weights):
        self._online_features, self._weights = online_features, weights

    def initialize(self, trainer):
        if trainer.updater.iteration == 0:              # what is started from may be scored, too
            self(trainer)

    def __call__(self, trainer):
        with self._weights():
            self._online_features.refresh()
