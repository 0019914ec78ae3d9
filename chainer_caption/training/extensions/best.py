"""Which epoch is kept."""
import contextlib
import math

import chainer

# The figures by which an epoch can be best: where they are reported, and whether the least or the greatest is best.
FIGURES = {'loss': ('validation/main/loss', min), 'cider': ('validation/main/cider', max)}


def best_entry(log, by):
    """The entry of a log whose weights `KeepBest` has kept, or None where the figure was never measured.

    Args:
        log (list of dict): The entries, as `Log.log` has them.
        by (str): A key of `FIGURES`.
    """
    key, best = FIGURES[by]
    measured = [entry for entry in log if entry.get(key) is not None]
    return best(measured, key=lambda entry: entry[key], default=None)


class KeepBest(chainer.training.Extension):
    """Keeps the weights of the epoch with the best figure in the model directory; of the last epoch as long as the
    figure has not been measured, which without validation images is always. Where the log has an entry of epoch 0,
    what training starts from is kept until an epoch is better. Weights that are not finite are nobody's model and never
    take the place of others.

    Args:
        current (Bundle): What is trained.
        output (str or os.PathLike or None): The model directory; None counts epochs and writes nothing.
        by (str): A key of `FIGURES`.
        weights (callable): Gives a context manager within which the model has the weights that are kept.

    Attributes:
        epochs_since (int): Epochs since the best in which the figure was measured.
    """
    trigger = 1, 'epoch'
    # After the figures have been reported, before the snapshot is taken.
    priority = chainer.training.PRIORITY_EDITOR

    def __init__(self, current, output, by='loss', weights=contextlib.nullcontext):
        self._bundle = current
        self._output = output
        self._weights = weights
        self._key, best = FIGURES[by]
        self._sign = 1 if best is min else -1
        # The figure times the sign: the less the better.
        self._best = math.inf
        self.epochs_since = 0

    def initialize(self, trainer):
        start = trainer.get_extension('LogReport').log[:1]
        if trainer.updater.iteration == 0 and start:
            self._compare(start[0].get(self._key))

    def __call__(self, trainer):
        self._compare(trainer.observation.get(self._key))

    def _compare(self, figure):
        if figure is None:
            if self._best == math.inf:
                self._keep()
            return
        if not self._sign * figure < self._best:
            self.epochs_since += 1
            return
        self.epochs_since = 0
        self._best = self._sign * float(figure)
        self._keep()

    def _keep(self):
        xp = self._bundle.model.xp
        with self._weights():
            if self._output is not None and all(xp.isfinite(param.array).all() for param in self._bundle.params()):
                self._bundle.save_weights(self._output)

    def serialize(self, serializer):
        self._best = float(serializer('best', self._best))
        self.epochs_since = int(serializer('epochs_since', self.epochs_since))
