"""Locks that keep two processes from writing the same file, on every system; the system frees a killed process's."""
import errno
import functools
import logging
import os
from typing import IO, Any

_log = logging.getLogger('chainer_caption')


def lock(file: int | IO[Any], path: str | os.PathLike[str] | None = None, wait: bool = False) -> bool:
    """Takes an exclusive lock on an open file, or its descriptor, that lasts until the file is closed.

    Returns whether there is a lock now. Without one the caller goes on: two runs at once are rarer than systems and
    file systems without locks, of which a notice tells if there is a `path` for it. Where another process holds the
    lock, it is waited for (`wait`), or BlockingIOError is raised."""
    path = None if path is None else os.fspath(path)
    try:
        import portalocker
    except ImportError as e:                            # it needs fcntl or msvcrt
        return _unlocked(path, str(e))
    flags = portalocker.LOCK_EX if wait else portalocker.LOCK_EX | portalocker.LOCK_NB
    try:
        portalocker.lock(file, flags)
    except (portalocker.AlreadyLocked, BlockingIOError) as e:
        raise BlockingIOError(errno.EAGAIN, 'locked by another process') from e
    except (portalocker.LockException, OSError) as e:   # ENOSYS, ENOLCK, EOPNOTSUPP: network and FUSE file systems
        return _unlocked(path, str(e.__cause__ or e))
    return True


@functools.cache
def _unlocked(path: str | None, reason: str) -> bool:
    if path is not None:
        _log.warning('%s: cannot be locked here (%s); start no second run that writes it', path, reason)
    return False
