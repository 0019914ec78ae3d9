"""Progress and notices of commands on standard error: a bar on a terminal, elsewhere a line now and then."""
import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from chainer_caption.errors import printable

# Where standard error is no terminal, a line is shown after so many seconds, or at each tenth of the work, but then
# not sooner than _LEAST seconds after the last one.
_EVERY, _LEAST = 30, 5

_quiet = False
_logger = logging.getLogger('chainer_caption')


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextlib.contextmanager
def notices(quiet: bool = False) -> Iterator[None]:
    """Shows notices and progress on standard error within its block, or with `quiet` neither."""
    global _quiet  # noqa: PLW0603 (the process has one standard error)
    before, level, handler = _quiet, _logger.level, _Handler()
    _quiet = quiet
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _quiet = before
        _logger.removeHandler(handler)
        _logger.setLevel(level)


def say(line: str) -> None:
    """Shows a notice, one line; `--quiet` leaves it out."""
    if not _quiet:
        print(printable(line), file=sys.stderr, flush=True)


class Progress(contextlib.AbstractContextManager['Progress']):
    """How much of some work is done. A context manager.

    Args:
        name: What is at work, for the lines.
        total, done: How much there is to do, if that is known, and how much is done, also an attribute.
        unit, scale: What is counted, and how many of what `update` counts are one: 1e6 for bytes in `MB`.
        hidden: Show no bar on a terminal.
    """

    def __init__(self, name: str, total: int | None = None, done: int = 0, unit: str = 'images', scale: float = 1,
                 hidden: bool = False) -> None:
        self._name, self._total, self._unit, self._scale = name, total, unit, scale
        self._begun = self.done = self._told = done
        self._since = self._last = time.monotonic()
        self._bar: Any = None
        self._lines = not sys.stderr.isatty() and not _quiet
        if sys.stderr.isatty() and not _quiet and not hidden:
            from tqdm import tqdm
            form: dict[str, Any] = {'unit': f' {unit}'} if scale == 1 else {'unit': 'B', 'unit_scale': True}
            self._bar = tqdm(total=total, initial=done, desc=None if name != 'writing' else name,
                             leave=name != 'writing', **form)

    def update(self, count: int = 1) -> None:
        """Adds what was done since the last call."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._lines:
            now = time.monotonic()
            tenth = self._total is not None and self.done - self._told >= self._total / 10
            if now - self._last >= (_LEAST if tenth else _EVERY):
                rate = (self.done - self._begun) / self._scale / (now - self._since)
                of = '' if self._total is None else f' of {self._total / self._scale:,.0f}'
                say(f'{self._name}: {self.done / self._scale:,.0f}{of} {self._unit}, {rate:.1f} a second')
                self._last, self._told = now, self.done

    def at(self, done: int, total: int) -> None:
        """In place of `update`, for work whose total is not known before the first call."""
        if self._total is None:
            self._total, self._begun, self.done, self._told = total, done, done, done
            if self._bar is not None:
                self._bar.total, self._bar.initial, self._bar.n = total, done, done
        self.update(done - self.done)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def track(items: Iterable[Any], name: str, total: int | None = None, unit: str = 'images') -> Iterator[Any]:
    """Iterates over items and shows progress."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(name, total, unit=unit) as progress:
        for item in items:
            yield item
            progress.update()


def failure(filename: str, reason: str) -> str:
    """The line on an image that has no result, safe for a terminal, with options in place of parameters."""
    for field in ('max_pixels', 'no_repeat_ngram'):
        reason = reason.replace(field, '--' + field.replace('_', '-'))
    return printable(f'{filename}: {reason}').encode(errors='backslashreplace').decode()


def show_failure(filename: str, reason: str) -> None:
    """Shows why an image has no result, above the bar if there is one; also with `--quiet`."""
    if sys.stderr.isatty():
        from tqdm import tqdm
        tqdm.write(failure(filename, reason), file=sys.stderr)
    else:
        print(failure(filename, reason), file=sys.stderr, flush=True)
