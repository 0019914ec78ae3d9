"""What a training sees of its pictures where the image network learns, too: features that the network makes of them as
it is at the moment, in the place of stored ones.
"""
import hashlib
import json

import chainer
import numpy as np

from chainer_caption.data import SPLITS
from chainer_caption.errors import InputError
from chainer_caption.features.ahead import BATCH
from chainer_caption.features.folders import find_in_folder
from chainer_caption.features.networks.stages import split, through
from chainer_caption.features.profiles import PROFILES
from chainer_caption.training.extensions import EveryEpochs
from chainer_caption.training.live_pictures import LivePictures
from chainer_caption.training.lower_stages import LowerStages


def find_training_pictures(release, folder, say):
    """Finds the pictures that a training needs: those to learn from and those of `val`.

    Args:
        release (Release): The release.
        folder (str or os.PathLike): Where they are.
        say (callable): Takes a notice.

    Returns:
        tuple: The release without those that are not there; of the others the paths, a dict by the rows of their
        features, in the release's order; and what tells which they are, a str.

    Raises:
        InputError: There is no such folder, or none of them is in it.
    """
    names, splits = release.captions.filenames, release.captions.splits
    wanted = np.flatnonzero(np.isin(splits, [SPLITS.index(name) for name in (*release.training_splits, 'val')]))
    found = find_in_folder([names[place] for place in wanted], folder)
    missing = [place for place in wanted if names[place] not in found]
    if len(missing) == len(wanted):
        raise InputError(f'{folder}: holds no picture of the release, the first of which is {names[0]}')
    if missing:
        say(f'{folder}: {len(missing):,} of {len(wanted):,} pictures are not in it and are left out, the first is '
            f'{names[missing[0]]}')
    there = [place for place in wanted if names[place] in found]
    digest = hashlib.sha256(json.dumps([names[place] for place in there]).encode()).hexdigest()
    paths = {int(release.captions.image_ids[place]): found[names[place]] for place in there}
    return release.without(missing), paths, f'{len(there)} ({digest[:12]})'


class Sight:
    """Sees pictures by a network whose upper stages learn together with the captioner.

    An objective takes it as it takes the converter of stored features. The figures on `val` are of features that `look`
    makes once an epoch.

    Args:
        release (Release): On what is trained, from `find_training_pictures`.
        current (Bundle): What is trained; it has a network.
        settings (Settings): With `finetune`.
        paths (dict): The pictures, by the rows of their features.
        device (chainer.backend.Device): Where.
        processes (Processes): Those that train together.
        progress (file or None): A terminal to draw a progress bar on.
        say (callable): Takes notices.

    Attributes:
        release (Release): Without the pictures that cannot be read. Its features are those of `val` as of the last
            `look`, and otherwise zero.
        features (numpy.ndarray): Those.
        network (chainer.Link): The parameters of the network that learn.
        target (chainer.Chain): They and the captioner.
    """

    def __init__(self, release, current, settings, paths, device, processes, progress=None, say=lambda line: None):
        self._network, self._device, self._processes = current.network, device, processes
        self._network.to_device(device)
        below, self._above = split(self._network, settings.finetune)
        profile = PROFILES[current.origin['profile']]
        lower = LowerStages(self._network, below, profile)
        # Prepared pictures take too much room to be kept, and those that are different each time cannot be.
        live = settings.augment or not below
        validated = set(_rows(release, 'val'))
        rows = [row for row in paths if not live or row in validated]
        # Without validation pictures there may be none to keep.
        self._kept, failed = processes.one_after_another(
            lambda: lower.of_pictures([paths[row] for row in rows], release.dataset_path, progress)) \
            if rows else (None, {})
        self._places = {row: place for place, row in enumerate(rows)}
        self._live = LivePictures(lower, paths, profile, settings, say) if live else None
        for place, reason in failed.items():
            say(f'{paths[rows[place]]}: {reason}; left out')
        unreadable = np.isin(release.captions.image_ids, [rows[place] for place in failed])
        self.release = release.without(np.flatnonzero(unreadable))
        self.release.origin = current.origin
        # Of a large release the system has memory for those rows alone that are written.
        self.features = np.zeros((len(release.features), current.model.feature_size), np.float32)
        self.release.features = self.features
        self.network = _learning(self._network, self._above)
        self.target = chainer.Chain(captioner=current.model, network=self.network)
        self.target.to_device(device)

    def expect(self, rows, update):
        """Says which pictures the next update will see, so that they are ready by then; arguments as for `see`."""
        if self._live is not None:
            self._live.expect(rows, update)

    def see(self, rows, update, device):
        """The features of pictures, with all that their gradients need.

        Args:
            rows (numpy.ndarray): The rows of their features in the release, (n,) int.
            update (int): The number of the update.
            device (chainer.backend.Device): That of the training.

        Returns:
            chainer.Variable: (n, D), float32.
        """
        x = self._of_rows(rows) if self._live is None else self._live(rows, update)
        self._network.cleargrads()                      # of what has a gradient and does not learn
        return self._features(x)

    def look(self):
        """Makes the features of `val` anew. Each process makes a part of them for all."""
        rows = _rows(self.release, 'val')
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
            return through(self._above, x)


def _rows(release, split):
    captions = release.captions
    return captions.image_ids[captions.splits == SPLITS.index(split)].tolist()


def _learning(network, stages):
    """A link that has the parameters of some stages, but for the scales of batch normalisation: what a convolution does
    after it has one does itself."""
    link = chainer.Link()
    link.to_device(network.device)                      # or its parameters would come to the CPU
    with link.init_scope():
        for name in (name for stage in stages for name in stage.links):
            for path, param in network[name].namedparams():
                if not path.endswith('/gamma'):
                    setattr(link, name + path.replace('/', '_'), param)
    return link


class Look(chainer.training.Extension):
    """Has a Sight look at the validation pictures before anything is measured on them.

    Args:
        sight (Sight): It.
        weights (callable): Gives a context manager within which the network has the weights that are validated.
    """
    trigger = EveryEpochs()
    priority = chainer.training.PRIORITY_WRITER + 1

    def __init__(self, sight, weights):
        self._sight, self._weights = sight, weights

    def initialize(self, trainer):
        if trainer.updater.iteration == 0:              # what is started from may be scored, too
            self(trainer)

    def __call__(self, trainer):
        with self._weights():
            self._sight.look()
