"""What a training shows on a terminal: a table of its epochs, and below it a bar that says how far it is."""
import chainer
from tqdm import tqdm


class ProgressBar(chainer.training.Extension):
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


class PrintTable(chainer.training.Extension):
    """Prints the log as a table, a line for each epoch, above a bar that may be there. (Chainer's PrintReport would
    clear what is below with control codes, and fails at a figure that is null.)

    Args:
        keys (sequence of str): The columns, as the log's entries name them.
        out (file): Where the table goes.
    """
    trigger = 1, 'iteration'

    def __init__(self, keys, out):
        self._columns = list(keys)
        self._out = out
        self._printed = 0

    def __call__(self, trainer):
        lines = [self._columns, *([_cell(entry, key) for key in self._columns]
                                  for entry in trainer.get_extension('LogReport').log)]
        if self._printed < len(lines):
            with tqdm.external_write_mode(self._out):
                self._out.write(''.join(map(self._line, lines[self._printed:])))
                self._out.flush()
            self._printed = len(lines)

    def _line(self, cells):
        widths = (max(10, len(key)) for key in self._columns)
        return '  '.join(map(str.ljust, cells, widths)).rstrip() + '\n'


def _cell(entry, key):
    if key not in entry:
        return ''
    return 'not finite' if entry[key] is None else f'{entry[key]:g}'
