"""Files written whole or not at all, and JSON of strangers read with no more memory than its size can justify."""
import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import stat

import numpy as np

from chainer_caption.errors import InputError

_SAMPLE = 64 * 1024

# Ends the names of files on their way.
_TEMPORARY = '.partial'

# No file of ours is nested as deeply, and whatever walks through a value or prints it can rely on that.
_DEPTH = 32


@contextlib.contextmanager
def atomic_write(path, mode='wb', durable=True, tidy=True, **kwargs):
    """Opens a temporary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    The content is on the disk (fsync) before the name points to it, so that a crash leaves the old file or the new
    one, never a part of it. `durable=False` leaves out the waiting for the disk, for what can be made again. What an
    earlier attempt left in the folder, because its process was killed, is removed.

    A symbolic link stays one, and it is the file it leads to that is replaced. The new file has the permissions of the
    old one, or where there was none, those that any new file gets. A pipe or a device is not replaced but written to.

    Args:
        path (str or os.PathLike): The file to write. Its folder must exist.
        mode (str): `'wb'` or `'w'`; text is UTF-8 with plain newlines.
        durable (bool): Whether to wait until the content is on the disk.
        tidy (bool): Whether to look for what an earlier attempt left. In a folder of many files whoever writes most of
            them does that once, by `remove_temporaries`.
        **kwargs: Passed on to `open`.

    Yields:
        The open file.
    """
    path = os.fspath(path)
    if 'b' not in mode:
        kwargs = {'encoding': 'utf-8', 'newline': '\n', **kwargs}
    if is_stream(path):
        with with_filename(path), open(path, mode, **kwargs) as f:
            yield f
        return
    with with_filename(path):
        target = os.path.realpath(path)
        folder, name = os.path.split(target)
        if tidy:
            remove_temporaries(folder, name)
        handle, temporary = _locked_temporary(folder, name, _permissions(target))
        try:
            with open(handle, mode, **kwargs) as f:
                yield f
                f.flush()
                if durable:
                    os.fsync(f.fileno())
                os.replace(temporary, target)           # while it is locked
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if durable:
            sync_folder(folder)


def is_stream(path):
    """Whether a path is that of a pipe or a device, which takes what comes and keeps nothing."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def escapes_root(path, folder):
    """Whether a path leads out of a folder, by `..` or by a link."""
    root = os.path.realpath(folder)
    return os.path.commonpath([os.path.realpath(path), root]) != root


@contextlib.contextmanager
def with_filename(path):
    """An OSError in its block that names no file, or a temporary one, gets the name of `path`."""
    try:
        yield
    except OSError as e:
        if e.filename is None or os.fspath(e.filename).endswith(_TEMPORARY):
            e.filename = os.fspath(path)
        raise


def _permissions(path):
    """Those of a file, as bits of its mode; None where there is no file."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(os.stat(path).st_mode)


def _locked_temporary(folder, name, permissions):
    # Its lock says that somebody is writing it; the system takes that away from a process that is killed. A file with
    # permissions of its own is never, not even at its beginning, open to more people than they allow; others get what
    # the umask leaves, which the system alone can tell without changing it for a moment.
    while True:
        temporary = os.path.join(folder, f'.{name}.{secrets.token_hex(4)}{_TEMPORARY}')
        with contextlib.suppress(FileExistsError):
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                             0o666 if permissions is None else permissions & 0o700)
            with contextlib.suppress(OSError):          # a file system without permissions
                if permissions is not None:
                    os.fchmod(handle, permissions)
            with contextlib.suppress(OSError):          # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return handle, temporary
            os.close(handle)                            # removed by another process before it was locked


def remove_temporaries(folder, name=None):
    """Deletes what `atomic_write` has left in a folder where it was killed: of a file of this name, or of any."""
    pattern = re.compile(rf'\.{".+" if name is None else re.escape(name)}\.\w{{8}}{re.escape(_TEMPORARY)}')
    with contextlib.suppress(OSError):
        for other in filter(pattern.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError), open(os.path.join(folder, other), 'rb') as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(f.name)


def sync_folder(folder):
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_number(value):
    """A number as JSON has it, which knows neither infinities nor NaN: itself, or None for one of these."""
    return value if math.isfinite(value) else None


def write_json(path, value, indent=1):
    """Writes `value` as JSON in UTF-8, whole or not at all."""
    # Half of a surrogate pair, which JSON can spell and UTF-8 cannot, is written as its escape.
    with atomic_write(path, 'w', errors='backslashreplace') as f:
        json.dump(value, f, ensure_ascii=False, indent=indent)
        f.write('\n')


def open_regular(path):
    """Opens a file to read its bytes.

    Raises:
        OSError: It cannot be opened, or is a pipe, which would be waited for, or a device, which may have no end.
    """
    f = open(path, 'rb', opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115 (returned)
    if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
        f.close()
        raise OSError(errno.EINVAL, 'not a regular file', os.fspath(path))
    return f


def parse_json(data, deep=False):
    """The value that bytes of JSON in UTF-8 spell.

    Args:
        data (bytes): The text.
        deep (bool): Whether it may be nested as deeply as it likes. Finding out how deep it is takes a third of the
            time of parsing, and a caller that only looks at known places need not know.

    Raises:
        ValueError: They are no JSON, or it is nested too deeply; a `json.JSONDecodeError` or `UnicodeDecodeError` says
            more.
    """
    try:
        value = json.loads(data.decode('utf-8-sig'))
    except RecursionError as e:
        raise ValueError(_TOO_DEEP) from e
    level = [] if deep else [value]
    for _ in range(_DEPTH):
        if not level:
            return value
        level = [child for parent in level if isinstance(parent, (list, dict)) and parent
                 for child in (parent.values() if isinstance(parent, dict) else parent)
                 if isinstance(child, (list, dict))]
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = 'the JSON is nested too deeply to be what this file should hold'


def read_json(path, limit=2 ** 25, deep=False):
    """Reads a JSON file in UTF-8.

    Args:
        path (str or os.PathLike): The file.
        limit (int): A file of more bytes is refused; in memory it may become thirty times as large.
        deep (bool): As for `parse_json`.

    Raises:
        InputError: The file is missing or cannot be read, is too large, is cut short, or is no JSON.
    """
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            if size > limit:
                raise InputError(f'{path}: {size:,} bytes are too many for such a file (at most {limit:,})')
            data = f.read()
    except OSError as e:
        raise unreadable(path, e) from e
    return decode_json(data, path, deep)


def decode_json(data, path, deep=False):
    """The value that the content of the JSON file `path` spells.

    Raises:
        InputError: As `read_json`.
    """
    try:
        return parse_json(data, deep)
    except UnicodeDecodeError as e:
        raise _cut_short(path) if e.reason == 'unexpected end of data' else \
            InputError(f'{path}: not UTF-8 at byte {e.start}; save it as UTF-8') from e
    except json.JSONDecodeError as e:
        raise _cut_short(path) if e.pos >= len(e.doc.rstrip()) or e.msg.startswith('Unterminated string') else \
            InputError(f'{path}: no JSON at line {e.lineno}, column {e.colno}: {e.msg}') from e
    except (ValueError, MemoryError) as e:              # ValueError: a number of thousands of digits, too deep
        raise InputError(f'{path}: {e or "too large for the memory"}') from e


def _cut_short(path):
    return InputError(f'{path}: the JSON is cut short (a download broken off?); fetch the file again')


def sample_digest(path):
    """SHA-256 over a file's size and 64 KiB each of its head, middle and tail: tells files apart without reading
    gigabytes."""
    digest = hashlib.sha256()
    with open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        digest.update(str(size).encode())
        for at in (0, size // 2, max(0, size - _SAMPLE)):
            f.seek(at)
            digest.update(f.read(_SAMPLE))
    return digest.hexdigest()


def unreadable(path, error):
    """An InputError for a file that the system will not open. `error` is the OSError."""
    if isinstance(error, FileNotFoundError):
        return InputError(f'{path}: no such file')
    return InputError(f'{path}: cannot be read ({error.strerror or error})')


def unwritable(path, error):
    """An InputError for a file or folder that the system will not write. `error` is the OSError."""
    return InputError(f'{path}: cannot be written ({error.strerror or error})')


def write_npz(path, arrays, durable=True):
    """Writes `{name: array}` as an uncompressed `.npz`, whole or not at all.

    Equal arrays give equal bytes: they stand in the order of their names, and NumPy gives each the same date. Object
    arrays, which would be pickled, are refused.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f'{name} is an object array, which only a pickle could hold')
    with atomic_write(path, durable=durable) as f:
        np.savez(f, **dict(sorted(arrays.items())))
