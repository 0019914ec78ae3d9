"""The table that a training prints."""


class Table:
    """Chainer's PrintReport clears the terminal below its table, where the progress bar is; a file gets the table
    alone."""

    def __init__(self, out):
        self._out = out

    def write(self, text):
        self._out.write(text if self._out.isatty() else text.replace('\033[J', ''))

    def flush(self):
        self._out.flush()
