"""A journal of long work, which continues where a stopped run, even a killed one, left off.

The file begins with `MAGIC`, a line; then follow lines of JSON: the settings, then a row for each piece of work that is
done. A last line that is incomplete is ignored. A file that does not begin so is never written to."""
import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

from chainer_caption.errors import InputError
from chainer_caption.storage.files import Path, parse_json, unwritable, with_filename
from chainer_caption.storage.locks import lock

MAGIC = b'# chainer_caption journal: rerun the command that wrote it to continue, or delete it\n'
_LONGEST = 2 ** 26              # bytes of a line; an image's captions take some thousand
Row = dict[str, Any]

# Settings that files of earlier versions do not record, because there was no choice.
_UNRECORDED = {'encoder-precision': 'float32'}


class Journal:
    """Opens the journal of a run, or begins it. A context manager; the file stays when the block is left. `settings` is
    what the results depend on: name, as the user knows it, to JSON value.

    Raises InputError if the journal has other settings, the file is no journal, another process writes it, or it cannot
    be written."""

    def __init__(self, path: Path, settings: Row) -> None:
        self.path, self._start = os.fspath(path), len(MAGIC)
        try:
            self._file = open(self.path, 'a+b')         # noqa: SIM115 (closed by __exit__); appends wherever it was read
        except OSError as e:
            raise unwritable(self.path, e) from e
        try:
            lock(self._file, self.path)
            self._file.seek(0)
            head = self._file.read(4096)
            # A crash of the system may leave zeros in place of what was not on the disk yet.
            if not head.startswith(MAGIC) and not (len(head) < 4096 and MAGIC.startswith(head.rstrip(b'\0'))):
                self._start = 0                         # written before journals had a first line, or not a journal
            begun = list(itertools.islice(self._lines(), 2))
            if len(begun) == 2:
                check_same(self.path, begun[0], settings)
            elif self._start == 0:
                raise InputError(f'{self.path}: not the journal of an unfinished run; move it elsewhere, or write to '
                                 'another file')
            else:                                       # no results that could be of other settings
                self._file.truncate(0)
                self._file.write(MAGIC)
                self.append(settings)
        except BaseException as e:
            with contextlib.suppress(OSError):
                self._file.close()
            if isinstance(e, BlockingIOError):
                raise InputError(f'{self.path}: another run is writing it; wait until that has ended') from e
            raise

    def rows(self) -> Iterator[Row]:
        """Iterates over the rows; not while rows are appended."""
        return itertools.islice(self._lines(), 1, None)

    def _lines(self) -> Iterator[Row]:
        self._file.seek(self._start)
        with contextlib.suppress(ValueError, MemoryError):
            while line := self._file.readline(_LONGEST):
                row = parse_json(line)
                if not line.endswith(b'\n') or not isinstance(row, dict):
                    return
                yield row

    def cut(self, count: int) -> None:
        """Keeps the first `count` rows and removes all behind them, also an incomplete last line."""
        self._file.seek(self._start)
        for _ in range(1 + count):
            self._file.readline()
        self._file.truncate(self._file.tell())

    def append(self, row: Row) -> None:
        """Adds a row of JSON values, which is safe from then on when the process is killed."""
        with with_filename(self.path):
            self._file.write(json.dumps(row).encode('ascii') + b'\n')
            self._file.flush()

    def remove(self) -> None:
        """Deletes the file, when the result of the work is where it belongs."""
        os.unlink(self.path)

    def __enter__(self) -> 'Journal':
        return self

    def __exit__(self, *exception: object) -> None:
        # Closing fails again on a full disk, which the exception reports already.
        with contextlib.suppress(OSError) if any(exception) else with_filename(self.path):
            self._file.close()


def check_same(path: Path, before: Row, now: Row, begun: str = 'begun with',
               advice: str = 'go on with that, or delete it to start again') -> None:
    """Compares the settings that a file or folder was begun with to those that must be the same now, by the names that
    the user knows. Raises InputError if some differ: path, `begun`, the first setting that differs, `advice`."""
    before = {**_UNRECORDED, **before}
    for name, value in now.items():
        if before.get(name) != value:
            # Digests are left out of the message.
            telling = name in before and not isinstance(value, dict) and len(str(value)) != 64
            what = f'{name} {before[name]}, not {value}' if telling else f'another {name}'
            raise InputError(f'{path}: {begun} {what}; {advice}')


def stamp(path: Path) -> list[int]:
    """A file's size in bytes and its time of change in nanoseconds, which tell whether it is still the same file; empty
    where there is no file."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return [status.st_size, status.st_mtime_ns]
    return []
