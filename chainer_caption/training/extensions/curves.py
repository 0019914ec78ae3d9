"""Curves of the log as images."""
import os
from typing import Any

import chainer

from chainer_caption.report.charts import log_points
from chainer_caption.storage.files import atomic_write
from chainer_caption.training.extensions.log import EveryEpochs

LOSS, SCORES = 'loss.png', 'scores.png'

# For each image the label of its axis, and the keys of its curves in the log.
_IMAGES = {LOSS: ('nats per token', ('main/loss', 'validation/main/loss')),
           SCORES: ('fraction', ('main/reward', 'validation/main/cider', 'validation/main/bleu4'))}


class Curves(chainer.training.Extension):
    """Draws `loss.png` and, where captions are scored or rewarded, `scores.png` into the folder of the training, from
    the log; Chainer's PlotReport keeps its data in the snapshot."""
    trigger = EveryEpochs()

    def __call__(self, trainer: Any) -> None:
        log = trainer.get_extension('LogReport').log
        for name, (measure, keys) in _IMAGES.items():
            curves = {key: log_points(log, key) for key in keys}
            if any(curves.values()):
                with atomic_write(os.path.join(trainer.out, name), durable=False) as f:
                    _draw(f, curves, measure)


def _draw(f: Any, curves: dict[str, Any], measure: str) -> None:
    # Without pyplot, which would choose a backend for the whole process.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    figure = Figure()
    axes = figure.add_subplot(xlabel='epoch', ylabel=measure)
    axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True))
    for key, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), marker='.', label=key)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(f, format='png')
