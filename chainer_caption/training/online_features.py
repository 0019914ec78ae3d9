"""Image features computed with the current encoder while that is fine-tuned, in place of stored ones."""
import hashlib
import json
from collections.abc import Callable
from typing import Any

import chainer
import numpy as np

from chainer_caption.data import SPLITS
from chainer_caption.errors import InputError
from chainer_caption.features.encoders.stages import run_stages, split
from chainer_caption.features.folders import find_in_folder
from chainer_caption.features.prefetch import BATCH
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import Path
from chainer_caption.training.augmented_loader import AugmentedLoader
from chainer_caption.training.extensions import EveryEpochs
from chainer_caption.training.frozen_layers import FrozenLayers
from chainer_caption.training.plan import reading_of
from chainer_caption.training.settings import Settings
from chainer_caption.training.updater import Say


def find_training_images(dataset: Any, folder: Path, say: Say) -> tuple[Any, dict[int, str], str]:
    """Finds the images of the training splits and of `val` in a folder.

    Returns:
        The dataset without the images that are missing; the paths of the others by the rows of their features, in the
        dataset's order; and their number and a digest of their names, a str. Raises InputError where none is found.
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
    """Image features computed with the current encoder during fine-tuning.

    An objective takes it in place of the converter of stored features. The figures on `val` are of features that
    `refresh` computes once an epoch. The dataset and the paths are from `find_training_images`; the Bundle that is
    trained has an encoder; the other arguments are as for `train`.

    Attributes:
        dataset: The dataset without the images that cannot be read.
        features: Its features, (N, D) float32: those of `val` as of the last `refresh`, zero for other images.
        encoder, target: Link with the trained parameters of the encoder, and a Chain of it and the captioner.
        per_image: Whether the captioner is `per_image` (see `Architecture`).
    """

    def __init__(self, dataset: Any, current: Bundle, settings: Settings, paths: dict[int, str], device: Any,
                 processes: Processes, progress: Any = None, say: Say = lambda line: None) -> None:
        if current.encoder is None or current.provenance is None or settings.finetune is None:
            raise ValueError('fine-tuning needs an encoder and its provenance')
        self._encoder, self._device, self._processes = current.encoder, device, processes
        self.per_image = reading_of(current.model)[1]
        self._encoder.to_device(device)
        below, self._above = split(self._encoder, settings.finetune)
        preprocessing = PREPROCESSINGS[current.provenance['preprocessing']]
        lower = FrozenLayers(self._encoder, below, preprocessing)
        # Prepared images are too large to be kept, and augmented ones differ each time.
        live = settings.augment or not below
        validated = set(_rows_of_val(dataset))
        rows = [row for row in paths if not live or row in validated]
        # Without validation images there may be none to keep.
        kept: Any = (None, {})
        if rows:
            kept = processes.one_after_another(
                lambda: lower.of_images([paths[row] for row in rows], dataset.dataset_path, progress))
        self._kept, failed = kept
        self._places = {row: place for place, row in enumerate(rows)}
        self._live = AugmentedLoader(lower, paths, preprocessing, settings, say) if live else None
        for place, reason in failed.items():
            say(f'{paths[rows[place]]}: {reason}; left out')
        unreadable = np.isin(dataset.captions.image_ids, [rows[place] for place in failed])
        self.dataset = dataset.reading(reading_of(current.model)[0]).without(np.flatnonzero(unreadable))
        self.dataset.provenance = current.provenance
        # The system provides memory only for the rows that are written.
        self.features = np.zeros((len(self.dataset.features), current.model.feature_size), np.float32)
        self.dataset.features = self.features
        self.encoder = _trained(self._encoder, self._above)
        self.target = chainer.Chain(captioner=current.model, encoder=self.encoder)
        self.target.to_device(device)

    def schedule(self, rows: np.ndarray, update: int) -> None:
        """Announces the images of the next update, so that they are decoded by then; arguments as for `get`."""
        if self._live is not None:
            self._live.schedule(rows, update)

    def get(self, rows: np.ndarray, update: int, device: Any) -> chainer.Variable:
        """The features (n, D) float32 of images at an update, with a graph for their gradients; `rows`, (n,) int, are
        those of their features in the dataset."""
        x = self._of_rows(rows) if self._live is None else self._live(rows, update)
        self._encoder.cleargrads()                      # also of parameters that are not trained
        return self._features(x)

    def refresh(self) -> None:
        """Computes the features of `val` with the current encoder; each process computes a part of them for all."""
        rows = _rows_of_val(self.dataset)
        batches = [rows[i:i + BATCH] for i in range(0, len(rows), BATCH)]
        with chainer.no_backprop_mode():
            made = [chainer.get_device('@numpy').send(self._features(self._of_rows(batch)).array)
                    for batch in self._processes.share(batches)]
        shares: Any = self._processes.gather(made)
        for rank, share in enumerate(self._processes.broadcast(shares)):
            for batch, features in zip(batches[rank::self._processes.size], share, strict=True):
                self.features[batch] = features

    def _of_rows(self, rows: Any) -> Any:
        return self._device.send(np.ascontiguousarray(self._kept[[self._places[row] for row in rows]]))

    def _features(self, x: Any) -> chainer.Variable:
        with chainer.using_config('train', False):      # batch normalisation stays as it is
            return run_stages(self._above, x)


def _rows_of_val(dataset: Any) -> list[int]:
    return dataset.captions.image_ids[dataset.captions.splits == SPLITS.index('val')].tolist()


def _trained(encoder: Any, stages: Any) -> chainer.Link:
    """The parameters of some stages, without the scales of batch normalization, redundant before a convolution."""
    link = chainer.Link()
    link.to_device(encoder.device)                      # or its parameters would move to the CPU
    with link.init_scope():
        for name in (name for stage in stages for name in stage.links):
            for path, param in encoder[name].namedparams():
                if not path.endswith('/gamma'):
                    setattr(link, name + path.replace('/', '_'), param)
    return link


class RefreshFeatures(chainer.training.Extension):
    """Refreshes the features of the validation images before anything is measured on them, within the context
    manager that `weights` gives: in it the encoder has the weights that are validated."""
    trigger = EveryEpochs()
    priority = chainer.training.PRIORITY_WRITER + 1

    def __init__(self, online_features: OnlineFeatures, weights: Callable[[], Any]) -> None:
        self._online_features, self._weights = online_features, weights

    def initialize(self, trainer: Any) -> None:
        if trainer.updater.iteration == 0:              # the initial weights may be scored, too
            self(trainer)

    def __call__(self, trainer: Any) -> None:
        with self._weights():
            self._online_features.refresh()
