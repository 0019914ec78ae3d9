"""The log of a training."""
import os

from chainer.training import extensions

from chainer_caption.evaluation.perplexity import perplexity
from chainer_caption.models.bundle import LOG
from chainer_caption.storage.files import write_json

SAMPLES = 'samples'

# What each process reports of its share of the minibatches.
_SHARED = 'main/loss', 'main/accuracy'


class Log(extensions.LogReport):
    """Chainer's LogReport, but that `log.json` is written whole or not at all, and once more when a training goes on,
    so that it never has an epoch too many or too few. Its entries have the perplexity and, if captions were scored,
    `samples`.

    Args:
        output (pathlib.Path): The folder of the training; process 0 writes there.
        processes (Processes): Those that train together; the entries are the means of what they report.
    """
    default_name = 'LogReport'

    def __init__(self, output, processes):
        super().__init__(log_name=None, postprocess=self._complete)
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
        means = self._processes.sum([entry[name] for name in _SHARED]) / self._processes.size
        entry.update(zip(_SHARED, means.tolist(), strict=True))
        entry['main/perplexity'] = perplexity(entry['main/loss'])
        if self._samples is not None:
            entry[SAMPLES] = self._samples

    def share(self):
        """Makes the means so far of each process those of all, for a snapshot that all will go on from."""
        if self._processes.size > 1:
            summaries = self._summary._summaries        # Chainer has no other way to them
            for summary in (summaries[name] for name in _SHARED if name in summaries):
                sums = self._processes.sum([float(summary._x), float(summary._x2)]) / self._processes.size
                summary._x, summary._x2 = sums.tolist()
