"""When an extension acts: at the end of epochs."""


class EveryEpochs:
    """A trigger at the end of every so many epochs.

    Chainer's IntervalTrigger remembers when it was asked last and saves that; this one follows from the updater alone,
    so that a training can be resumed with more or fewer extensions than it had.

    Args:
        period (int): Of how many epochs it is the last that counts.
    """

    def __init__(self, period=1):
        self.period = period

    def __call__(self, trainer):
        return trainer.updater.is_new_epoch and trainer.updater.epoch % self.period == 0
