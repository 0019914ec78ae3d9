"""Untrusted zip archives, unpacked into a folder and nowhere else."""
import os
import pathlib
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import ARCHIVE_ERRORS, plausible
from chainer_caption.storage.files import atomic_write, escapes_root, open_regular, remove_temporaries, unreadable

_CHUNK = 2 ** 20
_UNWANTED = '__MACOSX/'         # macOS adds it to archives


def unpack(path: str, folder: str, strip: bool = False,
           track: Callable[[list[zipfile.ZipInfo]], Iterable[zipfile.ZipInfo]] = lambda members: members) -> None:
    """Unpacks a zip archive. Files are written atomically; those that exist with their size are skipped.

    All names and sizes are checked before the first file is written, and checksums while it is. `strip` leaves out the
    one folder that contains everything in the archive; `track` takes the list of members and returns an iterator of
    them, to show progress. Raises InputError if the archive is damaged, a name in it leads out of the folder or is a
    link, or the disk is too small, and OSError if a file cannot be written."""
    try:
        f = open_regular(path)
    except OSError as e:
        raise unreadable(path, e) from e
    try:
        with f, zipfile.ZipFile(f) as archive:
            places = _places(archive, path, folder, strip, os.fstat(f.fileno()).st_size)
            os.makedirs(folder, exist_ok=True)
            missing = {member: place for member, place in places.items()
                       if not os.path.isfile(place) or os.path.getsize(place) != member.file_size}
            check_room(folder, sum(member.file_size for member in missing), f'what is in {path}')
            for parent in {os.path.dirname(place) for place in missing.values()}:
                os.makedirs(parent, exist_ok=True)
                remove_temporaries(parent)
            for member in track(list(missing)):
                with archive.open(member) as source, atomic_write(missing[member], durable=False, tidy=False) as target:
                    shutil.copyfileobj(source, target, _CHUNK)
    except InputError:
        raise
    except ARCHIVE_ERRORS as e:
        raise InputError(f'{path}: not a sound archive ({e}); delete it, and the same command fetches it again') from e


def check_room(folder: str, size: int, what: str) -> None:
    """Raises InputError unless `size` bytes are free on the disk of a folder; `what` needs them."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f'{folder}: {what} needs {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free there; make '
                         'room, or choose another folder')


def _places(archive, path, folder, strip, size):
    """The destination of each file of an archive: a dict of zipfile.ZipInfo to str."""
    members = [member for member in archive.infolist()
               if not member.filename.endswith('/') and not member.filename.startswith(_UNWANTED)]
    names = [pathlib.PurePosixPath(member.filename).parts for member in members]
    if strip and len({parts[:1] for parts in names}) == 1 and all(len(parts) > 1 for parts in names):
        names = [parts[1:] for parts in names]
    places = {}
    for member, parts in zip(members, names, strict=True):
        place, kind = os.path.join(folder, *parts), stat.S_IFMT(member.external_attr >> 16)
        if not parts or '..' in parts or member.filename.startswith('/') or escapes_root(place, folder):
            raise InputError(f'{path}: {member.filename} would lie outside of {folder}; nothing was unpacked')
        if kind not in (0, stat.S_IFREG):
            raise InputError(f'{path}: {member.filename} is a link or a device; nothing was unpacked')
        places[member] = place
    # Members that share their bytes, or expand to thousands of times of them, make a small file a large one.
    if sum(member.compress_size for member in members) > size or len(set(places.values())) < len(places) or \
            not plausible(sum(member.file_size for member in members), size):
        raise ValueError('its files do not fit into it, or two have the same name')
    return places
