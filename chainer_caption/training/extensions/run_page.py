"""The page of a run."""
import dataclasses
import datetime
import os

import chainer
import numpy as np

from chainer_caption.data import SPLITS
from chainer_caption.data.units import join
from chainer_caption.models.bundle import versions
from chainer_caption.report.run_page import write_run_page
from chainer_caption.storage.files import replacing
from chainer_caption.training.extensions.best import FIGURES, best_entry
from chainer_caption.training.extensions.epochs import EveryEpochs

PAGE = 'run.html'

# Of the settings, what says nothing to a reader.
_NOT_SHOWN = ('release', 'start_from', 'pictures', 'image_weights', 'tensorboard', 'snapshot_every', 'keep_snapshots')


class RunPage(chainer.training.Extension):
    """Writes `run.html` into the folder of the training, anew every epoch: curves, scores, samples, settings.

    Args:
        current (Bundle): What is trained.
        release (Release): On what.
        settings (Settings): How.
    """
    trigger = EveryEpochs()

    def __init__(self, current, release, settings):
        self._epochs, self._by = settings.epochs, settings.keep_best
        self._release = release
        self._details = {'Settings': _settings_facts({**dataclasses.asdict(settings), **current.training}),
                         'Release': _release_facts(current, release),
                         'Versions': {name: version for name, version in versions().items() if version}}

    def __call__(self, trainer):
        log = trainer.get_extension('LogReport').log
        facts = {'release': self._details['Release']['folder'], 'epochs': f'{log[-1]["epoch"]} of {self._epochs}',
                 'time': datetime.timedelta(seconds=round(log[-1]['elapsed_time'])),
                 'written': datetime.datetime.now().isoformat(' ', 'minutes')}
        name = os.path.basename(os.path.abspath(trainer.out))
        with replacing(os.path.join(trainer.out, PAGE), 'w', durable=False) as f:
            write_run_page(f, f'Training of {name}', facts, log, FIGURES[self._by][0], best_entry(log, self._by),
                           self._references(log), self._details)

    def _references(self, log):
        """What the release says of the sampled pictures: `imgid` to text."""
        samples = next((entry['samples'] for entry in log if 'samples' in entry), ())
        ids, unit = self._release.captions.image_ids, self._release.captions.unit
        return {sample['image_id']: join(
            self._release.references(np.flatnonzero(ids == sample['image_id'])[0])[0], unit) for sample in samples}


def _settings_facts(training):
    shown = {name.replace('_', ' '): 'none' if value is None else value
             for name, value in training.items() if name not in _NOT_SHOWN}
    return {**shown, **({'started from': 'given weights'} if 'start_from' in training else {})}


def _release_facts(current, release):
    captions = release.captions
    facts = {'folder': os.path.basename(os.path.dirname(os.path.abspath(release.dataset_path)))}
    per_picture = np.diff(captions.sentences)
    for i, split in enumerate(SPLITS):
        there = captions.splits == i
        if there.any():
            facts[split] = f'{there.sum():,} pictures, {per_picture[there].sum():,} captions'
    origin = current.origin or {}
    return {**facts, 'features': f'{release.feature_size:,} numbers a picture',
            'network': origin.get('network', 'unknown'), 'profile': origin.get('profile', 'unknown'),
            'vocabulary': f'{len(current.vocabulary):,} words'}
