"""The log of a training, and the trigger of the extensions that show it."""
import collections
import os
from collections.abc import Sequence
from typing import Any

import chainer
import numpy as np
from chainer.training import extensions

from chainer_caption.evaluation.perplexity import perplexity
from chainer_caption.models.bundle import LOG
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import Path, json_number, write_json
from chainer_caption.training.updater import Say

SAMPLES = 'samples'
_LOSSES = 'main/loss', 'validation/main/loss'           # show that a training has diverged


class EveryEpochs:
    """Trigger at the end of every `period` epochs. Chainer's IntervalTrigger saves when it was last asked; this one
    depends on the updater only, so that a training can be resumed with other extensions."""

    def __init__(self, period: int = 1) -> None:
        self.period = period

    def __call__(self, trainer: Any) -> bool:
        return trainer.updater.is_new_epoch and trainer.updater.epoch % self.period == 0


class _EntryEnds(EveryEpochs):
    """Trigger at the end of every epoch, also of one of text without images."""

    def __call__(self, trainer: Any) -> bool:
        iterator = trainer.updater.get_iterator('main')
        return super().__call__(trainer) or getattr(iterator, 'text_epoch_ended', False)


class Log(extensions.LogReport):
    """Chainer's LogReport with atomic writes and exact means.

    `log.json` is written whole or not at all, and once more when a training is resumed, so that it never has an epoch
    too many or too few. Means are of sums in float64; a figure that is not finite is None, as JSON has no NaN. The
    entries have the perplexity, if there is one, and, where captions were scored, `samples`.

    Process 0 writes into `output`, the folder of the training. `shared` is what each process reports of its share of
    the minibatches, `main/loss` first; `per_token`: `main/loss` is in nats per token.
    """
    default_name = 'LogReport'

    def __init__(self, output: Path, processes: Processes, shared: Sequence[str] = ('main/loss', 'main/accuracy'),
                 per_token: bool = True) -> None:
        super().__init__(trigger=_EntryEnds(), log_name=None, postprocess=self._complete)
        self._shared, self._per_token = shared, per_token
        self._path, self._processes, self._samples = os.path.join(output, LOG), processes, None

    def initialize(self, trainer: Any) -> None:
        if self.log:
            self._write()

    def __call__(self, trainer: Any) -> None:
        self._samples = trainer.observation.get(SAMPLES)
        entries = len(self.log)
        super().__call__(trainer)
        if len(self.log) > entries:
            self._write()

    def _write(self) -> None:
        if self._processes.first:
            write_json(self._path, self.log)

    def _complete(self, entry: dict) -> None:
        shared = [name for name in self._shared if name in entry]       # a model need not report its accuracy
        means = self._processes.sum([entry[name] for name in shared]) / self._processes.size
        entry.update(zip(shared, means.tolist(), strict=True))
        if self._per_token and 'main/loss' in entry:    # an epoch of text has another
            entry['main/perplexity'] = perplexity(entry['main/loss'])
        _blank(entry)
        if self._samples is not None:
            entry[SAMPLES] = self._samples

    def serialize(self, serializer: Any) -> None:
        super().serialize(serializer)
        for entry in self.log:                          # snapshots of earlier versions may have a NaN
            _blank(entry)

    def share(self) -> None:
        """Replaces the means so far of each process by those of all, for a snapshot that all will go on from."""
        if self._processes.size > 1:
            self._summary.share(self._processes, self._shared)

    def _init_summary(self) -> None:
        self._summary = _Means()


class _Means(chainer.DictSummary):
    """Chainer's DictSummary with sums in float64: in float32 the mean of 20,000 losses has five correct digits."""

    def __init__(self) -> None:
        super().__init__()
        self._summaries: Any = collections.defaultdict(_Sum)

    def share(self, processes: Processes, names: Sequence[str]) -> None:
        for summary in (self._summaries[name] for name in names if name in self._summaries):
            sums = processes.sum([float(summary._x), float(summary._x2)]) / processes.size
            summary._x, summary._x2 = sums.tolist()


class _Sum(chainer.reporter.Summary):
    def add(self, value: Any, weight: float = 1) -> None:
        # On the device where it is: a GPU is not waited for.
        super().add(value.astype(np.float64) if hasattr(value, 'astype') else value, weight)


def _blank(entry: dict) -> None:
    for name, value in entry.items():
        if isinstance(value, float):
            entry[name] = json_number(value)


class TellDivergence(chainer.training.Extension):
    """Notifies the user, once, at the end of the first epoch in which the loss is not finite."""
    trigger = EveryEpochs()

    def __init__(self, say: Say) -> None:
        self._say = say

    def __call__(self, trainer: Any) -> None:
        *before, entry = trainer.get_extension('LogReport').log
        if _diverged(entry) and not (before and _diverged(before[-1])):
            self._say(f'epoch {entry["epoch"]}: the loss is not finite: the training has diverged and will not '
                      'recover. Stop it, look at the norms of the features (chainer-caption describe), and start again '
                      '(--overwrite) with larger minibatches, a lower --learning-rate or another --seed')


def _diverged(entry: dict) -> bool:
    return any(entry.get(name, 0) is None for name in _LOSSES)
