"""What CuPy does not have: tests ask here what has been launched, uploaded and waited for, and forbid it."""
import collections
import contextlib
import threading

_thread = threading.local()


class SynchronizedError(RuntimeError):
    """The host waits for a device within `no_sync`."""


class RaceError(RuntimeError):
    """What a kernel leaves depends on which of its elements comes first."""


class Counts:
    """What has happened: `launches` (a Counter by name), `uploads` and `synchronizations` (lists of what did it)."""

    def __init__(self):
        self.launches = collections.Counter()
        self.uploads = []
        self.synchronizations = []


_counting = []


@contextlib.contextmanager
def counted():
    """Counts what happens within it, in any thread.

    Yields:
        Counts: Goes up as things happen.
    """
    counts = Counts()
    _counting.append(counts)
    try:
        yield counts
    finally:
        _counting.remove(counts)


@contextlib.contextmanager
def no_sync():
    """Within it this thread must not wait for a device: SynchronizedError."""
    before = getattr(_thread, 'forbidden', False)
    _thread.forbidden = True
    try:
        yield
    finally:
        _thread.forbidden = before


def synchronize(what):
    """Called where the host waits for a device."""
    for counts in _counting:
        counts.synchronizations.append(what)
    if getattr(_thread, 'forbidden', False):
        raise SynchronizedError(f'{what} makes the host wait for the device')


def upload(what):
    """Called where an array goes from the host to a device."""
    for counts in _counting:
        counts.uploads.append(what)


def count_launch(name, times):
    """Called for each kernel."""
    for counts in _counting:
        counts.launches[name] += times
