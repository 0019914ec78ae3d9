"""Files written whole or not at all, and NumPy archives read without ever executing anything."""
import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import tokenize
import zipfile
import zlib

import numpy as np

from chainer_caption.errors import InputError

# What NumPy, zipfile and zlib raise on bytes that are no sound archive or claim more than memory holds.
ARCHIVE_ERRORS = (ValueError, KeyError, EOFError, SyntaxError, NotImplementedError, RuntimeError, OverflowError,
                  MemoryError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)

_SAMPLE = 64 * 1024

# Ends the names of files on their way.
_TEMPORARY = '.caption-tmp'


@contextlib.contextmanager
def replacing(path, mode='wb', durable=True, **kwargs):
    """Opens a temporary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    The content is on the disk (fsync) before the name points to it, so that a crash leaves the old file or the new
    one, never a part of it. `durable=False` leaves out the waiting for the disk, for what can be made again.

    Args:
        path (str or os.PathLike): The file to write. Its folder must exist.
        mode (str): `'wb'` or `'w'`; text is UTF-8 with plain newlines.
        durable (bool): Whether to wait until the content is on the disk.
        **kwargs: Passed on to `open`.

    Yields:
        The open file.
    """
    path = os.fspath(path)
    if 'b' not in mode:
        kwargs = {'encoding': 'utf-8', 'newline': '\n', **kwargs}
    folder = os.path.dirname(path) or '.'
    with naming(path):
        handle, temporary = tempfile.mkstemp(_TEMPORARY, '.' + os.path.basename(path) + '.', folder)
        try:
            with open(handle, mode, **kwargs) as f:
                yield f
                f.flush()
                if durable:
                    os.fsync(f.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)         # mkstemp's own mode would keep everybody else out
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if durable:
            sync_folder(folder)


@contextlib.contextmanager
def naming(path):
    """An OSError in its block that names no file, or a temporary one, gets the name of `path`."""
    try:
        yield
    except OSError as e:
        if e.filename is None or os.fspath(e.filename).endswith(_TEMPORARY):
            e.filename = os.fspath(path)
        raise


def remove_temporaries(folder):
    """Deletes what `replacing` has left in a folder where it was killed; nobody may be writing there."""
    for path in pathlib.Path(folder).glob('.*' + _TEMPORARY):
        path.unlink(missing_ok=True)


def sync_folder(folder):
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, value, indent=1):
    """Writes `value` as JSON in UTF-8, whole or not at all."""
    # Half of a surrogate pair, which JSON can spell and UTF-8 cannot, is written as its escape.
    with replacing(path, 'w', errors='backslashreplace') as f:
        json.dump(value, f, ensure_ascii=False, indent=indent)
        f.write('\n')


def read_json(path):
    """Reads a JSON file in UTF-8.

    Raises:
        InputError: The file is missing or cannot be read, is cut short, or is no JSON.
    """
    try:
        with open(path, 'rb') as f:
            return json.loads(f.read().decode('utf-8-sig'))
    except OSError as e:
        raise unreadable(path, e) from e
    except UnicodeDecodeError as e:
        raise _cut_short(path) if e.reason == 'unexpected end of data' else \
            InputError(f'{path}: not UTF-8 at byte {e.start}; save it as UTF-8') from e
    except json.JSONDecodeError as e:
        raise _cut_short(path) if e.pos >= len(e.doc.rstrip()) or e.msg.startswith('Unterminated string') else \
            InputError(f'{path}: no JSON at line {e.lineno}, column {e.colno}: {e.msg}') from e
    except ValueError as e:                             # a number of thousands of digits
        raise InputError(f'{path}: {e}') from e
    except RecursionError as e:
        raise InputError(f'{path}: the JSON is nested too deeply to be what this file should hold') from e


def _cut_short(path):
    return InputError(f'{path}: the JSON is cut short (a download broken off?); fetch the file again')


def sample_digest(path):
    """SHA-256 over a file's size and 64 KiB each of its head, middle and tail: tells files apart without reading
    gigabytes."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
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
    """Writes `{name: array}` as an uncompressed `.npz`, whole or not at all; object arrays, which would be pickled,
    are refused."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f'{name} is an object array, which only a pickle could hold')
    with replacing(path, durable=durable) as f:
        np.savez(f, **arrays)


def npy_header(f):
    """The shape and dtype of the `.npy` that begins where the open file `f` stands.

    Raises:
        One of ARCHIVE_ERRORS: It is none.
    """
    version = np.lib.format.read_magic(f)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(f)
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f'an array of shape {shape}')
    return shape, dtype


def npz_shapes(path):
    """What an `.npz` says it holds, read from its headers alone: `{name: (shape, dtype)}`.

    Nothing is unpickled and no array is read, so that sizes can be checked before memory is taken.

    Raises:
        InputError: No sound `.npz`, or an array in it would need unpickling.
    """
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as f:
                    shape, dtype = npy_header(f)
                name = member.filename.removesuffix('.npy')
                if dtype.hasobject:
                    raise InputError(f'{path}: {name} is pickled, and loading a pickle could run anything; refused')
                shapes[name] = shape, dtype
    except OSError as e:
        raise unreadable(path, e) from e
    except InputError:
        raise
    except ARCHIVE_ERRORS as e:
        raise InputError(f'{path}: not a sound .npz file ({e})') from e
    return shapes


def read_npz(path):
    """Reads every array of an `.npz`: `{name: array}`. Pickles are refused; see `npz_shapes` to check sizes first.

    Raises:
        InputError: As `npz_shapes`.
    """
    npz_shapes(path)                                    # its refusals come first, and name the array
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as e:
        raise unreadable(path, e) from e
    except ARCHIVE_ERRORS as e:
        raise InputError(f'{path}: not a sound .npz file ({e})') from e
