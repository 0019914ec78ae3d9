"""How far a training is, on a terminal."""
import chainer
from tqdm import tqdm


class Progress(chainer.training.Extension):
    """A bar with captions a second and the time left. (Chainer 7.8.1's ProgressBar overlooks its arguments, and fails
    where a training ends otherwise than after a number of epochs.)

    Args:
        epochs (int): Of the whole training.
        captions (int): Of an epoch.
        out (file): The terminal.
    """
    trigger = 1, 'iteration'
    # After the table, which is printed above the bar.
    priority = chainer.training.PRIORITY_READER - 1

    def __init__(self, epochs, captions, out):
        self._epochs, self._captions, self._out = epochs, captions, out
        self._bar = None

    def initialize(self, trainer):
        self._bar = tqdm(total=self._epochs * self._captions, initial=self._done(trainer), file=self._out,
                         unit=' captions', unit_scale=True, dynamic_ncols=True, leave=False)

    def __call__(self, trainer):
        self._bar.update(self._done(trainer) - self._bar.n)

    def _done(self, trainer):
        return round(trainer.updater.epoch_detail * self._captions)

    def finalize(self):
        if self._bar is not None:
            self._bar.close()
