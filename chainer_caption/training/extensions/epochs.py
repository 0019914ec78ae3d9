"""Trigger at the end of epochs."""
from typing import Any


class EveryEpochs:
    """Trigger at the end of every `period` epochs.

    Chainer's IntervalTrigger saves when it was last asked; this one depends on the updater only, so that a training can
    be resumed with other extensions.
    """

    def __init__(self, period: int = 1) -> None:
        self.period = period

    def __call__(self, trainer: Any) -> bool:
        return trainer.updater.is_new_epoch and trainer.updater.epoch % self.period == 0
