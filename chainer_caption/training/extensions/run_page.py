"""The page of a training: curves, scores, samples, settings."""
import dataclasses
import datetime
import os
from typing import Any

import chainer
import numpy as np

from chainer_caption.data import SPLITS
from chainer_caption.data.tokenization import detokenize
from chainer_caption.models.bundle import Bundle, versions
from chainer_caption.report.run_page import write_run_page
from chainer_caption.storage.files import atomic_write
from chainer_caption.training.extensions.best import FIGURES, best_entry
from chainer_caption.training.extensions.log import EveryEpochs
from chainer_caption.training.settings import Settings

PAGE = 'run.html'

# Settings of no interest to a reader.
_NOT_SHOWN = ('dataset', 'start_from', 'images', 'encoder_weights', 'tensorboard', 'snapshot_every', 'keep_snapshots')


class RunPage(chainer.training.Extension):
    """Writes `run.html` into the folder of the training after every epoch."""
    trigger = EveryEpochs()

    def __init__(self, current: Bundle, dataset: Any, settings: Settings) -> None:
        self._epochs, self._by = settings.epochs, settings.keep_best or 'loss'
        self._dataset = dataset
        self._details = {'Settings': _settings_facts({**dataclasses.asdict(settings), **current.training}),
                         'Dataset': _dataset_facts(current, dataset),
                         'Versions': {name: version for name, version in versions().items() if version}}

    def __call__(self, trainer: Any) -> None:
        log = trainer.get_extension('LogReport').log
        facts = {'dataset': self._details['Dataset']['folder'], 'epochs': f'{log[-1]["epoch"]} of {self._epochs}',
                 'time': datetime.timedelta(seconds=round(log[-1]['elapsed_time'])),
                 'written': datetime.datetime.now().isoformat(' ', 'minutes')}
        name = os.path.basename(os.path.abspath(trainer.out))
        with atomic_write(os.path.join(trainer.out, PAGE), 'w', durable=False) as f:
            write_run_page(f, f'Training of {name}', facts, log, FIGURES[self._by][0], best_entry(log, self._by),
                           self._references(log), self._details)

    def _references(self, log: list[dict]) -> dict[int, str]:
        """A reference of each sampled image, by `imgid`."""
        samples = next((entry['samples'] for entry in log if 'samples' in entry), ())
        ids, tokenizer = self._dataset.captions.image_ids, self._dataset.captions.tokenizer
        return {sample['image_id']: detokenize(
            self._dataset.references(np.flatnonzero(ids == sample['image_id'])[0])[0], tokenizer) for sample in samples}


def _settings_facts(training: dict) -> dict:
    shown = {name.replace('_', ' '): 'none' if value is None else value
             for name, value in training.items() if name not in _NOT_SHOWN}
    return {**shown, **({'started from': 'given weights'} if 'start_from' in training else {})}


def _dataset_facts(current: Bundle, dataset: Any) -> dict:
    captions = dataset.captions
    paths = [part.dataset_path for part in getattr(dataset, 'parts', [dataset])]
    facts = {'folder': ' + '.join(os.path.basename(os.path.dirname(os.path.abspath(path))) for path in paths)}
    per_image = np.diff(captions.sentences)
    for i, split in enumerate(SPLITS):
        there = captions.splits == i
        if there.any():
            facts[split] = f'{there.sum():,} images, {per_image[there].sum():,} captions'
    facts['features'] = f'{dataset.feature_size:,} numbers an image'
    provenance = current.provenance or {}
    facts |= {name: provenance.get(name, 'unknown') for name in ('encoder', 'preprocessing')}
    return {**facts, 'vocabulary': f'{len(current.vocabulary):,} words'}
