"""Cache of what is expensive to compute from a file.

A cache entry is a folder named after the file's path and identity (size, modification time, and a digest of its head,
middle and tail). Entries of an earlier state of the file are deleted, and so are entries that were not used for long.
An entry that is missing or damaged is computed again."""
import contextlib
import hashlib
import os
import pathlib
import shutil
import time

from chainer_caption.storage.files import Path, sample_digest

VERSION = 1                     #: of the entries' layout; those of another version are not read
# Days after which an unused entry is deleted; sooner where its file is missing, which may be on an unmounted disk.
_DAYS, _DAYS_WITHOUT_FILE = 90, 7
_ENTRIES = f'{"[0-9a-f]" * 16}-{"[0-9a-f]" * 16}'        # nothing else in the folder is touched
_SOURCE = 'source'              # file with the path of the source; the folder's modification time is of the last use


def cache_folder() -> pathlib.Path:
    """`$XDG_CACHE_HOME/chainer_caption`, by default `~/.cache/chainer_caption`."""
    # A path that is not absolute is ignored (XDG specification). Without a home the folder is one that cannot be made.
    bases = os.environ.get('XDG_CACHE_HOME', ''), os.path.expanduser('~/.cache'), os.devnull
    return pathlib.Path(next(filter(os.path.isabs, bases))) / 'chainer_caption'


def entry_folder(path: Path) -> pathlib.Path:
    """The folder of the cache entry for a file in its current state. It may not exist yet; if it does, it is now used.
    Raises OSError if the file cannot be read."""
    path = os.path.realpath(path)
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    identity = f'{VERSION} {os.stat(path).st_mtime_ns} {sample_digest(path)}'
    entry = cache_folder() / f'{place}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}'
    with contextlib.suppress(OSError):                  # missing, or another user's
        os.utime(entry)
    return entry


def prepare_entry(entry: pathlib.Path, path: Path) -> bool:
    """Makes the folder of a cache entry, from `entry_folder`, and deletes the entries of earlier states of the file.
    Returns whether the folder is writable."""
    try:
        entry.mkdir(parents=True, exist_ok=True)
        for other in entry.parent.glob(entry.name.split('-')[0] + '-*'):
            if other != entry:
                shutil.rmtree(other, ignore_errors=True)
        (entry / _SOURCE).write_bytes(os.fsencode(os.path.realpath(path)))
        return os.access(entry, os.W_OK)
    except OSError:
        return False


def forget_unused() -> None:
    """Deletes the entries that were not used for long."""
    with contextlib.suppress(OSError):
        for entry in cache_folder().glob(_ENTRIES):
            days = (time.time() - entry.stat().st_mtime) / 86_400
            if days > _DAYS or (days > _DAYS_WITHOUT_FILE and not _source_exists(entry)):
                shutil.rmtree(entry, ignore_errors=True)


def _source_exists(entry: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.exists((entry / _SOURCE).read_bytes())
    return False
