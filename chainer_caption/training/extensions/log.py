"""The log of a training."""
import collections
import os

import chainer
import numpy as np
from chainer.training import extensions

from chainer_caption.evaluation.perplexity import perplexity
from chainer_caption.models.bundle import LOG
from chainer_caption.storage.files import json_number, write_json
from chainer_caption.training.extensions.epochs import EveryEpochs

SAMPLES = 'samples'

# Where it is seen that a training has diverged.
_LOSSES = 'main/loss', 'validation/main/loss'


class Log(extensions.LogReport):
    """Chainer's LogReport, but that `log.json` is written whole or not at all, and once more when a training goes on,
    so that it never has an epoch too many or too few; that means are of sums in float64; and that a figure which is
    not finite is None, for which JSON has a word. Its entries have the perplexity, where there is one, and, if captions
    were scored, `samples`.

    Args:
        output (str or os.PathLike): The folder of the training; process 0 writes there.
        processes (Processes): Those that train together; the entries are the means of what they report.
        shared (sequence of str): What each of them reports of its share of the minibatches, `main/loss` first.
        per_token (bool): Whether that is in nats per token.
    """
    default_name = 'LogReport'

    def __init__(self, output, processes, shared=('main/loss', 'main/accuracy'), per_token=True):
        super().__init__(log_name=None, postprocess=self._complete)
        self._shared, self._per_token = shared, per_token
        self._path = os.path.join(output, LOG)
        self._processes = processes
        self._samples = None

    def initialize(self, trainer):
        if self.log:
            self._write()

    def __call__(self, trainer):
        self._samples = trainer.observation.get(SAMPLES)
        entries = len(self.log)
        super().__call__(trainer)
        if len(self.log) > entries:
            self._write()

    def _write(self):
        if self._processes.first:
            write_json(self._path, self.log)

    def _complete(self, entry):
        means = self._processes.sum([entry[name] for name in self._shared]) / self._processes.size
        entry.update(zip(self._shared, means.tolist(), strict=True))
        if self._per_token:
            entry['main/perplexity'] = perplexity(entry['main/loss'])
        _blank(entry)
        if self._samples is not None:
            entry[SAMPLES] = self._samples

    def serialize(self, serializer):
        super().serialize(serializer)
        for entry in self.log:                          # in snapshots of earlier versions there may be a NaN
            _blank(entry)

    def share(self):
        """Makes the means so far of each process those of all, for a snapshot that all will go on from."""
        if self._processes.size > 1:
            self._summary.share(self._processes, self._shared)

    def _init_summary(self):
        self._summary = _Means()


class _Means(chainer.DictSummary):
    """Chainer's DictSummary with sums in float64: in float32 the mean of 20,000 losses is wrong in its sixth figure."""

    def __init__(self):
        super().__init__()
        self._summaries = collections.defaultdict(_Sum)

    def share(self, processes, names):
        for summary in (self._summaries[name] for name in names if name in self._summaries):
            sums = processes.sum([float(summary._x), float(summary._x2)]) / processes.size
            summary._x, summary._x2 = sums.tolist()


class _Sum(chainer.reporter.Summary):

    def add(self, value, weight=1):
        # On the device where it is: a GPU is not waited for.
        super().add(value.astype(np.float64) if hasattr(value, 'astype') else value, weight)


def _blank(entry):
    for name, value in entry.items():
        if isinstance(value, float):
            entry[name] = json_number(value)


class TellDivergence(chainer.training.Extension):
    """Says so, once, at the end of the epoch in which the loss has ceased to be finite.

    Args:
        say (callable): Takes the line.
    """
    trigger = EveryEpochs()

    def __init__(self, say):
        self._say = say

    def __call__(self, trainer):
        *before, entry = trainer.get_extension('LogReport').log
        if _diverged(entry) and not (before and _diverged(before[-1])):
            self._say(f'epoch {entry["epoch"]}: the loss is not finite: the training has diverged, and nothing more '
                      'will be learned. Stop it, look at the norms of the features (describe.py), and begin anew '
                      '(--overwrite) with larger minibatches or another --seed')


def _diverged(entry):
    return any(entry.get(name, 0) is None for name in _LOSSES)
