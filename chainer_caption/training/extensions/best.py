"""Keeps the weights of the best epoch."""
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import chainer

from chainer_caption.models.bundle import Bundle
from chainer_caption.storage.files import Path

# The figures by which an epoch can be best: where they are reported, and whether the least or the greatest is best.
FIGURES: dict[str, tuple[str, Any]] = {'loss': ('validation/main/loss', min), 'cider': ('validation/main/cider', max)}


def best_entry(log: Sequence[dict], by: str) -> dict | None:
    """The entry of a log (`Log.log`) whose weights `KeepBest` has kept by a figure (a key of `FIGURES`), or None where
    that was never measured."""
    key, best = FIGURES[by]
    measured = [entry for entry in log if entry.get(key) is not None]
    return best(measured, key=lambda entry: entry[key], default=None)


class KeepBest(chainer.training.Extension):
    """Keeps the weights of the epoch with the best figure in the model directory.

    As long as the figure has not been measured, which without validation images is always, those of the last epoch are
    kept. Where the log has an entry of epoch 0, the initial weights are kept until an epoch is better. Weights that are
    not finite never replace others.

    Without an `output`, the model directory, it counts epochs and writes nothing. `by` is a key of `FIGURES`; `weights`
    gives a context manager within which the model has the weights that are kept. `epochs_since` counts the epochs since
    the best one in which the figure was measured.
    """
    trigger = 1, 'epoch'
    priority = chainer.training.PRIORITY_EDITOR         # after the figures are reported, before the snapshot is taken

    def __init__(self, current: Bundle, output: Path | None, by: str = 'loss',
                 weights: Callable[[], Any] = contextlib.nullcontext) -> None:
        self._bundle, self._output, self._weights = current, output, weights
        self._key, best = FIGURES[by]
        self._sign = 1 if best is min else -1
        self._best = math.inf                           # the figure times the sign: lower is better
        self.epochs_since = 0

    def initialize(self, trainer: Any) -> None:
        start = trainer.get_extension('LogReport').log[:1]
        # A training that was stopped before its first update has compared the entry already.
        if trainer.updater.iteration == 0 and start and self._best == math.inf:
            self._compare(start[0].get(self._key))

    def __call__(self, trainer: Any) -> None:
        self._compare(trainer.observation.get(self._key))

    def _compare(self, figure: Any) -> None:
        if figure is None:
            if self._best == math.inf:
                self._keep()
        elif self._sign * figure < self._best:
            self.epochs_since, self._best = 0, self._sign * float(figure)
            self._keep()
        else:                                           # a NaN, too
            self.epochs_since += 1

    def _keep(self) -> None:
        xp = self._bundle.model.xp
        with self._weights():
            if self._output is not None and all(xp.isfinite(param.array).all() for param in self._bundle.params()):
                self._bundle.save_weights(self._output)

    def serialize(self, serializer: Any) -> None:
        self._best = float(serializer('best', self._best))
        self.epochs_since = int(serializer('epochs_since', self.epochs_since))
