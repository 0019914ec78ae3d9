"""Terminal output of a training: a table of its epochs, and a progress bar below it."""
from collections.abc import Sequence
from typing import Any

import chainer
from tqdm import tqdm


class ProgressBar(chainer.training.Extension):
    """A bar on the terminal `out` with captions a second and the time left, of `epochs` with `captions` each, and of
    the text before them, if the iterator has one (`TextThenImages`). Chainer 7.8.1's ProgressBar ignores its arguments,
    and fails where a training ends otherwise than after some epochs."""
    trigger = 1, 'iteration'
    priority = chainer.training.PRIORITY_READER - 1     # after the table, which is printed above the bar

    def __init__(self, epochs: int, captions: int, out: Any) -> None:
        self._epochs, self._captions, self._out = epochs, captions, out
        self._bar: Any = None

    def initialize(self, trainer: Any) -> None:
        before = getattr(trainer.updater.get_iterator('main'), 'captions_before', 0)
        self._bar = tqdm(total=before + self._epochs * self._captions, initial=self._done(trainer), file=self._out,
                         unit=' captions', unit_scale=True, dynamic_ncols=True, leave=False)

    def __call__(self, trainer: Any) -> None:
        self._bar.update(self._done(trainer) - self._bar.n)

    def _done(self, trainer: Any) -> int:
        before = getattr(trainer.updater.get_iterator('main'), 'captions_done', 0)
        return before + round(trainer.updater.epoch_detail * self._captions)

    def finalize(self) -> None:
        if self._bar is not None:
            self._bar.close()


class PrintTable(chainer.training.Extension):
    """Prints the log as a table, a line for each epoch, above a progress bar that may be there; `keys` are the columns,
    as the log's entries name them. Chainer's PrintReport clears what is below, and fails at a figure that is null."""
    trigger = 1, 'iteration'

    def __init__(self, keys: Sequence[str], out: Any) -> None:
        self._columns, self._out, self._printed = list(keys), out, 0

    def __call__(self, trainer: Any) -> None:
        lines = [self._columns, *([_cell(entry, key) for key in self._columns]
                                  for entry in trainer.get_extension('LogReport').log)]
        if self._printed < len(lines):
            with tqdm.external_write_mode(self._out):
                self._out.write(''.join(map(self._line, lines[self._printed:])))
                self._out.flush()
            self._printed = len(lines)

    def _line(self, cells: list[str]) -> str:
        widths = (max(10, len(key)) for key in self._columns)
        return '  '.join(map(str.ljust, cells, widths)).rstrip() + '\n'


def _cell(entry: dict, key: str) -> str:
    if key not in entry:
        return ''
    return 'not finite' if entry[key] is None else f'{entry[key]:g}'
