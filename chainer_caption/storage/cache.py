"""What opening a file costs, kept for the next time.

A cache entry is named after the file's path and identity (size, time of change, and a digest of its head, middle and
tail); a file that has changed has another identity, and entries of what it was before are deleted. Nothing here has
to survive: an entry that is missing or damaged is made again.
"""
import hashlib
import os
import pathlib
import shutil

from chainer_caption.storage.files import sample_digest

# Entries are not read across a change of their layout.
VERSION = 1


def cache_folder():
    """`$XDG_CACHE_HOME/chainer_caption`, by default `~/.cache/chainer_caption`."""
    base = os.environ.get('XDG_CACHE_HOME', '')
    # The XDG specification: a path that is not absolute is to be ignored.
    return (pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / '.cache') / 'chainer_caption'


def entry_folder(path):
    """The folder of the cache entry for a file as it is now; it need not exist yet.

    Raises:
        OSError: The file cannot be read.
    """
    path = os.path.realpath(path)
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    identity = f'{VERSION} {os.stat(path).st_mtime_ns} {sample_digest(path)}'
    return cache_folder() / f'{place}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}'


def prepare_entry(entry):
    """Makes the folder of a cache entry and deletes those of the same file as it was before.

    Returns:
        bool: Whether the folder can be written to.
    """
    try:
        entry.mkdir(parents=True, exist_ok=True)
        for other in entry.parent.glob(entry.name.split('-')[0] + '-*'):
            if other != entry:
                shutil.rmtree(other, ignore_errors=True)
        return os.access(entry, os.W_OK)
    except OSError:
        return False
