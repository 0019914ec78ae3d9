"""The table that a training prints."""
from tqdm import tqdm


class Table:
    """Where Chainer's PrintReport writes: above a bar that may be there, and without the control codes by which it
    would clear what is below.

    Args:
        out (file): Where the table goes.
    """

    def __init__(self, out):
        self._out = out
        self._line = ''

    def write(self, text):
        self._line += text.replace('\033[J', '')
        if self._line.endswith('\n'):                   # it comes in pieces, and the bar stays away for whole lines
            with tqdm.external_write_mode(self._out):
                self._out.write(self._line)
                self._out.flush()
            self._line = ''

    def flush(self):
        self._out.flush()
