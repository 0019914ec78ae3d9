"""A journal of work that takes long, so that a run which was stopped, however suddenly, goes on where it was.

The file holds lines of JSON: what the run was asked for, then a row for each piece of work that is done. A last line
that was cut off is as good as none.
"""
import contextlib
import itertools
import json
import os

from chainer_caption.errors import InputError
from chainer_caption.storage.files import parse_json, unwritable, with_filename
from chainer_caption.storage.locks import lock

# Of a line, in bytes: an image's captions take some thousand.
_LONGEST = 2 ** 26


class Journal:
    """Opens the journal of a run, or begins it. A context manager; the file stays when the block is left.

    Args:
        path (str or os.PathLike): The file.
        settings (dict): What the results depend on: a name, as the user knows it, to a JSON value. A journal that was
            begun with others is refused.

    Raises:
        InputError: The journal is of other settings, another process writes it, or it cannot be written.
    """

    def __init__(self, path, settings):
        self.path = os.fspath(path)
        try:
            self._file = open(self.path, 'a+b')         # noqa: SIM115 (closed by __exit__); appends wherever it was read
        except OSError as e:
            raise unwritable(self.path, e) from e
        try:
            lock(self._file, self.path)
            begun = list(itertools.islice(self._lines(), 2))
            if len(begun) == 2:
                check_same(self.path, begun[0], settings)
            else:                                       # nothing has been done that could be of other settings
                self._begin(begun, settings)
        except BlockingIOError as e:
            self._file.close()
            raise InputError(f'{self.path}: another run is writing it; wait until that has ended') from e
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.close()
            raise

    def _begin(self, before, settings):
        self._file.seek(0)
        if not before and self._file.readline(_LONGEST).endswith(b'\n'):
            raise InputError(f'{self.path}: is something else than the journal of a run; move it out of the way')
        self._file.truncate(0)
        self.append(settings)

    def rows(self):
        """Iterates over the rows; not while rows are appended."""
        return itertools.islice(self._lines(), 1, None)

    def _lines(self):
        self._file.seek(0)
        while line := self._file.readline(_LONGEST):
            try:
                row = parse_json(line)
            except (ValueError, MemoryError):
                return
            if not line.endswith(b'\n') or not isinstance(row, dict):
                return
            yield row

    def cut(self, count):
        """Keeps the first `count` rows. What stands behind them goes, and so does a last line that was cut off."""
        self._file.seek(0)
        for _ in range(1 + count):
            self._file.readline()
        self._file.truncate(self._file.tell())

    def append(self, row):
        """Adds a row, a dict of JSON values. Whoever kills the process after this returns cannot undo it."""
        with with_filename(self.path):
            self._file.write(json.dumps(row).encode('ascii') + b'\n')
            self._file.flush()

    def remove(self):
        """Deletes the file: the work is done, and its result is where it belongs."""
        os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        # What a full disk did not take it does not take now; that has been said.
        with contextlib.suppress(OSError) if any(exception) else with_filename(self.path):
            self._file.close()


def check_same(path, before, now, begun='begun with', advice='go on with that, or delete it to begin anew'):
    """Compares the settings that something was begun with to those of now.

    Args:
        path (str or os.PathLike): What was begun: a file or a folder.
        before (dict): What it was begun with.
        now (dict): The settings that must be the same, by the names that the user knows them by.
        begun (str): How the line goes on behind the path, up to the setting that is another.
        advice (str): What to do.

    Raises:
        InputError: Some are different; the line names the first and says what to do.
    """
    for name, value in now.items():
        if before.get(name) != value:
            # A digest, or several, would mean nothing to anybody.
            telling = name in before and not isinstance(value, dict) and len(str(value)) != 64
            what = f'{name} {before[name]}, not {value}' if telling else f'another {name}'
            raise InputError(f'{path}: {begun} {what}; {advice}')


def stamp(path):
    """What tells, without reading it, whether a file is still the one that some work was done on.

    Args:
        path (str or os.PathLike): The file.

    Returns:
        list of int: Its size in bytes and the time of its last change in nanoseconds; empty where there is no file.
    """
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
