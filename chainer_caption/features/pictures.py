"""Finds pictures on the disk and reads any of them as 8-bit RGB; what cannot be read is one `PictureError`."""
import collections
import contextlib
import itertools
import mmap
import os
import re
import stat
import struct
import threading
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from chainer_caption.errors import printable

# What is tried on a file, whatever its name says. Pillow knows more formats, but some of them start other programs.
_FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')

#: Suffixes (lower case) by which pictures are picked out of folders.
SUFFIXES = frozenset(('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.ppm',
                      '.pgm', '.pbm', '.pnm', '.jp2', '.avif'))

#: Pictures of more pixels than this are refused before they are decoded, which would take four to twelve bytes for
#: each: a phone's largest are 50 to 108 million, and a file of a few kilobytes can claim to be of billions.
MAX_PIXELS = 120_000_000

# JPEG's own limit. What is longer is no photograph, and its resampling could take any amount of memory.
_MAX_SIDE = 65_535

# Pictures of more pixels than this are decoded one at a time, whatever the number of threads: each pixel takes seven
# bytes meanwhile.
_LARGE = 16_000_000

# A larger file is no picture; some decoders would read it as a whole.
_MAX_BYTES = 2 ** 30

# A progressive JPEG says what to refine in scans, ten as a rule; in a few bytes each they can go over the whole picture
# for hours. Pixels times scans.
_MAX_SCANNED, _MAX_SCANS = 5_000_000_000, 10_000

# Tiles times channels of a JPEG 2000 picture, for each of which its decoder takes some kilobytes beforehand. Tiles of
# 256 x 256 are usual.
_MAX_TILES = 100_000

_BAND = 256                     # rows that are copied at a time


class PictureError(ValueError):
    """One picture that cannot be used; the run that met it can go on.

    Attributes:
        path (str): The picture. `str(error)` is the reason alone, in one line.
    """

    def __init__(self, path, reason):
        super().__init__(printable(reason))
        self.path = path


def find_pictures(paths):
    """Finds the pictures among files and in folders.

    Folders are walked recursively; in them a file is a picture by its suffix (`SUFFIXES`, in any case), hidden files
    and folders are passed over, and each folder is walked once however many symbolic links lead to it. A path that
    is no folder is taken as it is, whatever its name, even when it is missing, and so is a folder that cannot be
    listed: `read_picture` says what is wrong with them.

    Args:
        paths (iterable of str or os.PathLike, or one of them): Files and folders, mixed.

    Returns:
        list of str: Sorted by name, without duplicates.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found = set()
    for path in map(os.fspath, paths):
        found.update(_walk(path) if os.path.isdir(path) else [path])
    return sorted(found)


def _walk(top):
    # Real folders come before links to folders, so that a picture is listed under its own place where it has one.
    real, links, walked = [top], [], set()
    while real or links:
        folder = real.pop() if real else links.pop(0)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in walked:
                continue
            walked.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            yield folder
            continue
        for entry in entries:
            if entry.name.startswith('.'):
                continue
            if os.path.isdir(entry.path):
                (links if entry.is_symlink() else real).append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield entry.path


def find_by_name(wanted, names):
    """Finds pictures by the names that somebody else gave them.

    Args:
        wanted (iterable of str): File names, with or without folders.
        names (iterable of str): The pictures that there are, as paths relative to their common folder.

    Returns:
        dict: Wanted name to the picture's. A wanted name without the folders, or with more of them, finds its picture,
        too, where there is no doubt: `1.jpg` is `cats/1.jpg` if that is the only one. Those not found are left out.
    """
    wanted = {name: os.path.normpath(name) for name in wanted}
    by_last = collections.defaultdict(dict)
    for name in names:
        by_last[os.path.basename(name)][os.path.normpath(name)] = name
    found, guessed = {}, {}
    for name, path in wanted.items():
        there = by_last.get(os.path.basename(path), {})
        alike = [path] if path in there else [other for other in there
                                              if path.endswith('/' + other) or other.endswith('/' + path)]
        if len(alike) == 1:
            (found if path in there else guessed)[name] = there[alike[0]]
    times = collections.Counter([*found.values(), *guessed.values()])
    return {**found, **{name: picture for name, picture in guessed.items() if times[picture] == 1}}


def read_picture(path, honour_exif=True, max_pixels=MAX_PIXELS):
    """Reads a picture as it is meant to be seen.

    Grey and palette pictures, CMYK and 16 bits a channel become 8-bit RGB; what is transparent is laid on white, as
    a web page shows it; of an animation the first frame is taken.

    Args:
        path (str or os.PathLike): A JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF file, whatever its name.
        honour_exif (bool): Turn the picture as its EXIF orientation says. Features published in the years of the
            VGG networks were made without.
        max_pixels (int): A picture of more is refused, by its header alone.

    Returns:
        numpy.ndarray: RGB, shape (H, W, 3), uint8.

    Raises:
        PictureError: The file is missing or cannot be read, is no picture or a damaged one, or is too large. No
            other exception and no warning comes out of here, whatever the file holds.
    """
    path = os.fspath(path)
    try:
        with _pillow_quiet(), _open_regular(path) as f, _open_picture(f) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(f'{width} x {height} pixels are more than the limit of {max_pixels:,}')
            if max(width, height) > _MAX_SIDE:
                raise ValueError(f'{width} x {height} pixels: a side of more than {_MAX_SIDE:,}')
            _check_parts(image, f)
            with _large if width * height > _LARGE else contextlib.nullcontext():
                image.load()
                return _as_rgb(_turned(image) if honour_exif else image)
    except UnidentifiedImageError:
        reason = 'not a picture in a format known here, or cut off within its header'
    except OSError as e:
        reason = f'cannot be read ({e.strerror})' if e.strerror else str(e)
    except MemoryError:
        reason = 'not enough memory to decode it'
    except Exception as e:                              # Pillow's decoders raise nearly anything on damaged files
        reason = str(e) or type(e).__name__
    raise PictureError(path, ' '.join(reason.split()))


def _open_regular(path):
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):                # opening a pipe would wait for its writer, for ever
        raise ValueError('a folder that cannot be listed' if stat.S_ISDIR(status.st_mode) else 'not a regular file')
    if not status.st_size:
        raise ValueError('the file is empty')
    if status.st_size > _MAX_BYTES:
        raise ValueError(f'a file of {status.st_size:,} bytes is no picture')
    return open(path, 'rb')


def _open_picture(f):
    Image.init()
    return Image.open(f, formats=[name for name in _FORMATS if name in Image.OPEN])


def _check_parts(image, f):
    # Wherever in the file their marks stand: that may be more than decoders find, but not many more.
    if image.format in ('JPEG', 'MPO', 'JPEG2000'):
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if image.format == 'JPEG2000':
                most, what = _MAX_TILES, 'tiles'
                parts = sum(map(_tiles, itertools.islice(_SIZE.finditer(data), most + 1)))
            else:
                most, what = min(_MAX_SCANS, _MAX_SCANNED // (image.width * image.height)), 'scans'
                parts = sum(1 for _ in itertools.islice(_SCAN.finditer(data), most + 1))
        if parts > most:
            raise ValueError(f'more than {most:,} {what} in a picture of {image.width} x {image.height} pixels')


_SCAN = re.compile(b'\xff\xda')

# The marker of a codestream's size, with what follows up to the number of components (ISO/IEC 15444-1, A.5.1).
_SIZE = re.compile(b'\xff\x51(?=(.{38}))', re.DOTALL)


def _tiles(match):
    length, right, bottom, width, height, left, top, channels = struct.unpack('>H2x2I8x4IH', match[1])
    if length != 38 + 3 * channels:
        return 1                                        # it only looks like one
    columns, rows = -(-max(1, right - left) // max(1, width)), -(-max(1, bottom - top) // max(1, height))
    return columns * rows * max(1, channels)


def _turned(image):
    # A damaged EXIF block is no damage: the picture itself has been decoded. In place, because what comes back
    # otherwise is a copy even where nothing is to be turned.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _as_rgb(image):
    if image.mode == 'F':
        raise ValueError('floating-point pixels, which have no known range; save it with 8 or 16 bits a channel')
    if image.mode.startswith('I'):                      # 16-bit grey; Pillow's own conversion would clip it at 255
        grey = np.clip(np.asarray(image, np.int64), 0, 65535)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return _as_array(image if image.mode == 'RGB' else image.convert('RGB'))


def _as_array(image):
    # In bands: all at once goes by way of two more copies.
    array = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _BAND):
        bottom = min(top + _BAND, image.height)
        array[top:bottom] = image.crop((0, top, image.width, bottom))
    return array


_large = threading.Lock()
_lock = threading.Lock()
_readers = 0
_undo = contextlib.ExitStack()


@contextlib.contextmanager
def _pillow_quiet():
    # Pillow warns of pictures above a limit of its own and refuses them at twice that, and warns of oddities in the
    # metadata. Filters and limit are the process's, while pictures are read by many threads: the first reader sets
    # them and the last puts them back, which `warnings.catch_warnings` in each thread would get wrong.
    global _readers  # noqa: PLW0603 (guarded by the lock)
    with _lock:
        _readers += 1
        if _readers == 1:
            _undo.enter_context(warnings.catch_warnings())
            warnings.filterwarnings('ignore', module=r'PIL\.')
            _undo.callback(setattr, Image, 'MAX_IMAGE_PIXELS', Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                _undo.close()
