"""Atomic file writing, and JSON from untrusted files read within a bound of memory."""
import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.locks import lock

Path = str | os.PathLike[str]
_SAMPLE = 64 * 1024
_TEMPORARY = '.partial'         # suffix of temporary files
# A name longer than this many bytes is replaced by its digest in a temporary file's name, which is 18 bytes longer:
# file systems allow 255 bytes, encrypted ones 143.
_LONG_NAME = 100
_DEPTH = 32                     # nesting of JSON; no file of this package comes near it, as readers rely on
_TOO_DEEP = 'the JSON is nested too deeply to be what this file should hold'


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = 'wb', durable: bool = True, tidy: bool = True, **kwargs: Any) -> Iterator[Any]:
    """Opens a temporary file that replaces `path` when the block succeeds and is deleted when it does not.

    A crash leaves the old file or the new one, never a part of it. A symbolic link stays, and its target is replaced.
    The new file has the permissions of the old one. A pipe or a device is written to instead. The folder must exist.

    `mode` is `'wb'`, or `'w'` for UTF-8 with plain newlines; with `durable` the content is on the disk afterwards
    (fsync); `tidy` deletes the temporary files of killed processes for this path (in a folder of many files call
    `remove_temporaries` once instead); `kwargs` are those of `open`."""
    path = os.fspath(path)
    if 'b' not in mode:
        kwargs = {'encoding': 'utf-8', 'newline': '\n', **kwargs}
    if is_stream(path):
        with with_filename(path), open(path, mode, **kwargs) as f:
            yield f
        return
    with with_filename(path):
        target, permissions = os.path.realpath(path), None
        folder, name = os.path.split(target)
        if tidy:
            remove_temporaries(folder, name)
        with contextlib.suppress(OSError):
            permissions = stat.S_IMODE(os.stat(target).st_mode)
        handle, temporary = _locked_temporary(folder, name, permissions)
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


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def escapes_root(path: Path, folder: Path) -> bool:
    """Whether a path leads out of a folder, by `..` or by a link."""
    root = os.path.realpath(folder)
    return os.path.commonpath([os.path.realpath(path), root]) != root


@contextlib.contextmanager
def with_filename(path: Path) -> Iterator[None]:
    """Gives an OSError in its block the name of `path` if it names no file, or a temporary one."""
    try:
        yield
    except OSError as e:
        if e.filename is None or os.fspath(e.filename).endswith(_TEMPORARY):
            e.filename = os.fspath(path)
        raise


def _stem(name: str) -> str:
    data = os.fsencode(name)
    return name if len(data) <= _LONG_NAME else hashlib.sha256(data).hexdigest()[:32]


def _locked_temporary(folder: str, name: str, permissions: int | None) -> tuple[int, str]:
    # The lock tells other processes that the file is being written; the system frees it when the process is killed. A
    # file that replaces a private one is private from the start. Others get what the umask leaves.
    while True:
        temporary = os.path.join(folder, f'.{_stem(name)}.{secrets.token_hex(4)}{_TEMPORARY}')
        with contextlib.suppress(FileExistsError):
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, 'O_CLOEXEC', 0),
                             0o666 if permissions is None else permissions & 0o700)
            with contextlib.suppress(OSError):          # a file system without permissions
                if permissions is not None:
                    os.chmod(handle if os.chmod in os.supports_fd else temporary, permissions)
            lock(handle, wait=True)
            if os.fstat(handle).st_nlink:
                return handle, temporary
            os.close(handle)                            # another process removed it before it was locked


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Deletes the temporary files that killed processes left in a folder: for one file name, or for all. A file system
    without locks cannot tell which are being written, so they stay there."""
    pattern = re.compile(rf'\.{".+" if name is None else re.escape(_stem(name))}\.\w{{8}}{re.escape(_TEMPORARY)}')
    with contextlib.suppress(OSError):
        for other in filter(pattern.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError), open(os.path.join(folder, other), 'rb') as f:
                if lock(f):
                    os.unlink(f.name)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reserve(f: BinaryIO, size: int) -> None:
    """Allocates disk space for an open file of `size` bytes, so that a disk that is too small fails now (OSError)."""
    try:
        os.posix_fallocate(f.fileno(), 0, size)         # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError) as e:              # not on macOS, nor on every file system
        if isinstance(e, OSError) and e.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        if size > shutil.disk_usage(os.path.dirname(os.path.abspath(f.name))).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f.name) from e
        f.truncate(size)


def json_number(value: float) -> float | None:
    """A number as JSON can hold it: None for infinities and NaN."""
    return value if math.isfinite(value) else None


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Writes a value as JSON in UTF-8, atomically."""
    # Half of a surrogate pair, which JSON can spell and UTF-8 cannot, is written as its escape.
    with atomic_write(path, 'w', errors='backslashreplace') as f:
        json.dump(value, f, ensure_ascii=False, indent=indent)
        f.write('\n')


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to read its bytes. Raises OSError if it cannot be opened, or is a pipe or a device."""
    flags = getattr(os, 'O_NONBLOCK', 0)                # a pipe is not waited for
    f = open(path, 'rb', opener=lambda path, given: os.open(path, given | flags))  # noqa: SIM115 (returned)
    if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
        f.close()
        raise OSError(errno.EINVAL, 'not a regular file', os.fspath(path))
    return f


def parse_json(data: bytes, deep: bool = False) -> Any:
    """Parses JSON in UTF-8. With `deep` any nesting is allowed; the check takes a third of the time of parsing. Raises
    ValueError if it is no JSON, or nested too deeply; json.JSONDecodeError and UnicodeDecodeError have details."""
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


def read_json(path: Path, limit: int = 2 ** 25, deep: bool = False) -> Any:
    """Reads a JSON file in UTF-8 of at most `limit` bytes, which may become thirty times as large in memory. Raises
    InputError if it is missing, unreadable, too large, cut short, no JSON, or nested deeply and not `deep`."""
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            if size > limit:
                raise InputError(f'{path}: {size:,} bytes are too many for such a file (at most {limit:,})')
            return decode_json(f.read(), path, deep)
    except OSError as e:
        raise unreadable(path, e) from e


def decode_json(data: bytes, path: Path, deep: bool = False) -> Any:
    """Parses the content of the JSON file `path`; raises InputError as `read_json` does."""
    cut_short = InputError(f'{path}: the JSON is cut short (an incomplete download?); fetch the file again')
    try:
        return parse_json(data, deep)
    except UnicodeDecodeError as e:
        raise cut_short if e.reason == 'unexpected end of data' else \
            InputError(f'{path}: not UTF-8 at byte {e.start}; save it as UTF-8') from e
    except json.JSONDecodeError as e:
        raise cut_short if e.pos >= len(e.doc.rstrip()) or e.msg.startswith('Unterminated string') else \
            InputError(f'{path}: no JSON at line {e.lineno}, column {e.colno}: {e.msg}') from e
    except (ValueError, MemoryError) as e:              # ValueError: a number of thousands of digits, too deep
        raise InputError(f'{path}: {e or "too large for the memory"}') from e


def sample_digest(path: Path) -> str:
    """SHA-256 over a file's size and 64 KiB each of its head, middle and tail, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        digest.update(str(size).encode())
        for at in (0, size // 2, max(0, size - _SAMPLE)):
            f.seek(at)
            digest.update(f.read(_SAMPLE))
    return digest.hexdigest()


def unreadable(path: Path, error: OSError) -> InputError:
    """The InputError for a file that cannot be opened or read."""
    return InputError(f'{path}: no such file' if isinstance(error, FileNotFoundError) else
                      f'{path}: cannot be read ({error.strerror or error})')


def unwritable(path: Path, error: OSError) -> InputError:
    """The InputError for a file or folder that cannot be written."""
    return InputError(f'{path}: cannot be written ({error.strerror or error})')


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], durable: bool = True) -> None:
    """Writes `{name: array}` as an uncompressed `.npz`, atomically. Equal arrays give equal bytes. Raises TypeError for
    an object array, which would be pickled."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f'{name} is an object array, which only a pickle could hold')
    with atomic_write(path, durable=durable) as f:
        np.savez(f, **dict(sorted(arrays.items())))     # type: ignore[arg-type]
