"""What opening a file costs, kept for the next time.

A cache entry is named after the file's path and identity (size, time of change, and a digest of its head, middle and
tail); a file that has changed has another identity, and entries of what it was before are deleted. An entry that
nobody has used for long goes, too, and sooner where its file is not there any more. Nothing here has to survive: an
entry that is missing or damaged is made again.
"""
import contextlib
import hashlib
import os
import pathlib
import shutil
import time

from chainer_caption.storage.files import sample_digest

# Entries are not read across a change of their layout.
VERSION = 1

# For how many days an entry stays unused. A file that is not there may be on a disk that will be mounted again, hence
# the week; one that is there may not be wanted any more. To err costs the time of opening it once more.
_DAYS, _DAYS_WITHOUT_FILE = 90, 7

_ENTRIES = f'{"[0-9a-f]" * 16}-{"[0-9a-f]" * 16}'        # nothing else that stands in the folder is touched

# In an entry: the path of the file that it is of. The time of change of the entry's folder is that of its last use.
_SOURCE = 'source'


def cache_folder():
    """`$XDG_CACHE_HOME/chainer_caption`, by default `~/.cache/chainer_caption`."""
    # The XDG specification: a path that is not absolute is to be ignored. Whoever has no home, as an account that the
    # system has no entry of, gets a folder that nobody can make, and keeps nothing.
    bases = os.environ.get('XDG_CACHE_HOME', ''), os.path.expanduser('~/.cache'), os.devnull
    return pathlib.Path(next(filter(os.path.isabs, bases))) / 'chainer_caption'


def entry_folder(path):
    """The folder of the cache entry for a file as it is now; it need not exist yet. If it does, it counts as used.

    Raises:
        OSError: The file cannot be read.
    """
    path = os.path.realpath(path)
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    identity = f'{VERSION} {os.stat(path).st_mtime_ns} {sample_digest(path)}'
    entry = cache_folder() / f'{place}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}'
    with contextlib.suppress(OSError):                  # it is not there, or another user's
        os.utime(entry)
    return entry


def prepare_entry(entry, path):
    """Makes the folder of a cache entry and deletes those of the same file as it was before.

    Args:
        entry (pathlib.Path): The folder, from `entry_folder`.
        path (str or os.PathLike): The file.

    Returns:
        bool: Whether the folder can be written to.
    """
    try:
        entry.mkdir(parents=True, exist_ok=True)
        for other in entry.parent.glob(entry.name.split('-')[0] + '-*'):
            if other != entry:
                shutil.rmtree(other, ignore_errors=True)
        (entry / _SOURCE).write_bytes(os.fsencode(os.path.realpath(path)))
        return os.access(entry, os.W_OK)
    except OSError:
        return False


def forget_unused():
    """Deletes the entries that nobody has used for long."""
    with contextlib.suppress(OSError):
        for entry in cache_folder().glob(_ENTRIES):
            days = (time.time() - entry.stat().st_mtime) / 86_400
            if days > _DAYS or (days > _DAYS_WITHOUT_FILE and not _source_exists(entry)):
                shutil.rmtree(entry, ignore_errors=True)


def _source_exists(entry):
    with contextlib.suppress(OSError):
        return os.path.exists((entry / _SOURCE).read_bytes())
    return False
