"""Decodes images as 8-bit RGB; an image that cannot be read is one `ImageError`."""
from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from chainer_caption.errors import printable
from chainer_caption.parallel import SharedContext
from chainer_caption.storage.files import Path

# The formats that are tried, whatever the file's name. Pillow knows more, but some of them start other programs.
_FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')

# Brands in the first box of a HEIF file (ISO/IEC 23008-12, annex B). AVIF files have generic ones (mif1, msf1), too.
_HEIF_BRANDS = {b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'hevm', b'hevs', b'mif1', b'msf1'}
_AVIF_BRANDS = {b'avif', b'avis'}

#: Images of more pixels are refused before they are decoded, which takes four bytes a pixel (sixteen in WebP). The
#: largest images of phones have 50 to 108 million pixels, and a file of a few kilobytes can claim billions.
MAX_PIXELS = 120_000_000

_MAX_SIDE = 65_535              # JPEG's own limit; resampling a longer side could take any amount of memory
_PIXELS_AT_ONCE = 48_000_000    # of all images that are decoded at the same time in all threads; a larger one is alone
_MAX_BYTES = 2 ** 30            # of a file: some decoders read it as a whole
_CAMERA_PIXELS = 8_000_000      # JPEG images of more pixels may be scaled while they are decoded
_CHUNK = 2 ** 18                # bytes of a file that are searched at a time
_BAND_PIXELS = 2 ** 18          # pixels that are converted at a time

# Limits of a progressive JPEG: pixels times scans, and scans. Usual are ten scans. Thousands of scans of a few bytes
# each, over the whole image, would take hours.
_MAX_SCANNED, _MAX_SCANS = 5_000_000_000, 10_000
# Segments of a JPEG or chunks of a PNG that are walked, at some microseconds each; a gigabyte needs 16,000 segments.
_MAX_SEGMENTS = 200_000
# Tiles times channels of a JPEG 2000 image; its decoder allocates some kilobytes for each. Usual are 256 x 256 pixels.
_MAX_TILES = 100_000

# EXIF orientations, from 1, to (flip rows, flip columns, then transpose).
_TURNS = dict(enumerate([(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)], 1))
_INVERSE = {6: 8, 8: 6}         # the others are their own inverse
_ORIENTATION = 0x0112


class ImageError(ValueError):
    """An image that cannot be used; the run can go on with the next one. `str(error)` is the reason, in one line, and
    `path` the image, where it has a name."""

    def __init__(self, path: str | None, reason: str) -> None:
        super().__init__(printable(reason))
        self.path = path


class DecodedImage:
    """A decoded image, upright, that is converted to RGB part by part.

    It is read like an array: `image[top:bottom, left:right]` is RGB, (H, W, 3), uint8, and `numpy.asarray(image)` the
    whole. Turning and converting a large image as a whole would take two or three times its memory. Grey, palette, CMYK
    and 16-bit images become 8-bit RGB; transparent pixels are composed on white.
    `orientation` is the EXIF orientation by which the decoded image is turned; unknown numbers leave it as it is."""

    def __init__(self, image: Image.Image, orientation: int = 1) -> None:
        if image.mode == 'F':
            raise ValueError('floating-point pixels, which have no known range; save it with 8 or 16 bits a channel')
        self._image, self._turn = image, _TURNS.get(orientation, _TURNS[1])
        self.shape = (*(image.size if self._turn[2] else image.size[::-1]), 3)      #: (H, W, 3)

    def __getitem__(self, part: tuple[slice, ...]) -> np.ndarray:
        flip_rows, flip_columns, transpose = self._turn
        rows, columns = (range(length)[wanted] for wanted, length in zip(part, self.shape, strict=False))
        rows, columns = (columns, rows) if transpose else (rows, columns)
        width, height = self._image.size
        top, bottom = (height - rows.stop, height - rows.start) if flip_rows else (rows.start, rows.stop)
        left, right = (width - columns.stop, width - columns.start) if flip_columns else (columns.start, columns.stop)
        rgb = _as_rgb(self._image.crop((left, top, right, bottom)))
        rgb = rgb[::-1 if flip_rows else 1, ::-1 if flip_columns else 1]
        return rgb.transpose(1, 0, 2) if transpose else rgb

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(self.shape, np.uint8)
        for band in bands(*self.shape[:2]):
            array[band] = self[band, :]
        return array if dtype is None else array.astype(dtype, copy=False)

    def to_image(self) -> Image.Image:
        """The whole image in mode RGB; it may share memory with the decoded one."""
        if self._image.mode == 'RGB' and not self._image.has_transparency_data and not any(self._turn):
            return self._image
        image = Image.new('RGB', (self.shape[1], self.shape[0]))
        for band in bands(*self.shape[:2]):
            image.paste(Image.fromarray(np.ascontiguousarray(self[band, :])), (0, band.start))
        return image


def bands(length: int, breadth: int) -> Iterator[slice]:
    """Slices of the side `length` of an image, such that each band is small beside a large image."""
    step = max(1, _BAND_PIXELS // breadth)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


@contextlib.contextmanager
def open_image(path: Path | IO[bytes], honour_exif: bool = True, max_pixels: int = MAX_PIXELS,
               min_side: int | None = None) -> Iterator[DecodedImage]:
    """Yields a decoded image, whose memory is released when the block ends; large images wait for each other.

    Args:
        path: A JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000, AVIF or, with pillow-heif, HEIC file, whatever its
            name; the first frame of an animation. A binary file is read from its beginning and left open.
        honour_exif: Turn the image by its EXIF orientation. Features published in the years of VGG were made without.
            HEIC files have their orientation in the image itself, and are always turned.
        max_pixels: An image of more pixels is refused by its header.
        min_side: A JPEG image of more than 8 megapixels may be decoded at 1/2, 1/4 or 1/8 of its size, in a fraction of
            the time and memory, as long as both sides keep this many pixels. None: full size.

    Raises:
        ImageError: The file is missing or unreadable, not an image, damaged or too large. No other exception and no
            warning is raised, whatever the file contains."""
    f = path if hasattr(path, 'read') else None
    name: Any = getattr(f, 'name', None) if f is not None else os.fspath(path)          # type: ignore[arg-type]
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_pillow_quiet)
            f = f or held.enter_context(_open_regular(name))
            image = _decode(f, held, honour_exif, max_pixels, min_side)     # type: ignore[arg-type]
        except ImageError as e:
            e.path = name
            raise
        except UnidentifiedImageError as e:
            raise ImageError(name, 'not an image in a supported format, or cut off within its header') from e
        except MemoryError as e:
            raise ImageError(name, 'not enough memory to decode it') from e
        except Exception as e:                          # Pillow's decoders raise nearly anything on damaged files
            system = isinstance(e, OSError) and e.strerror
            one_line = ' '.join(str(e).split()) or type(e).__name__
            raise ImageError(name, f'cannot be read ({system})' if system else one_line) from e
        yield image


def _open_regular(path: str) -> IO[bytes]:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):                # opening a pipe would wait for its writer
        raise ValueError('a folder that cannot be listed' if stat.S_ISDIR(status.st_mode) else 'not a regular file')
    if not 0 < status.st_size <= _MAX_BYTES:
        raise ValueError(f'a file of {status.st_size:,} bytes is no image' if status.st_size else 'the file is empty')
    return open(path, 'rb')


def _decode(f: IO[bytes], held: contextlib.ExitStack, *options: Any) -> DecodedImage:
    try:
        return held.enter_context(_decoded(f, *options))
    except Exception:
        if (sound := _essential_chunks(f)) is None:
            raise
    return held.enter_context(_decoded(sound, *options))


@contextlib.contextmanager
def _decoded(f: IO[bytes], honour_exif: bool, max_pixels: int, min_side: int | None) -> Iterator[DecodedImage]:
    with _open_with_pillow(f) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(None, f'{width} x {height} pixels are more than the limit of {max_pixels:,} (max_pixels)')
        if max(width, height) > _MAX_SIDE:
            raise ValueError(f'{width} x {height} pixels: a side of more than {_MAX_SIDE:,}')
        _check_parts(image, f)
        if min_side is not None and image.format in ('JPEG', 'MPO') and width * height > _CAMERA_PIXELS:
            width, height = _scale(image, min_side)
        turned = _orientation(image) if image.format == 'TIFF' else 1       # Pillow turns TIFF images by itself
        # Pillow holds an animation's frame three times more while it decodes WebP, and pillow-heif once more.
        copies = {'WEBP': 4, 'HEIF': 2}.get(image.format or '', 1)
        with _room_for(width * height * copies), contextlib.closing(image):
            image.load()
            yield DecodedImage(image, _orientation(image) if honour_exif else _INVERSE.get(turned, turned))


def _open_with_pillow(f: IO[bytes]) -> Image.Image:
    f.seek(0)
    head = f.read(64)
    f.seek(0)
    Image.init()
    brands = {head[at:at + 4] for at in (8, *range(16, int.from_bytes(head[:4], 'big'), 4)[:12])}
    if head[4:8] == b'ftyp' and brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS:
        try:
            import pillow_heif
        except ImportError:
            raise ValueError('HEIC image: install pillow-heif (scripts/setup.sh heif)') from None
        if 'HEIF' not in Image.OPEN:
            pillow_heif.register_heif_opener()
        return Image.open(_KeptOpen(f), formats=['HEIF'])
    return Image.open(_KeptOpen(f), formats=[name for name in _FORMATS if name in Image.OPEN])


class _KeptOpen:                # by Pillow, which closes files
    def __init__(self, f: Any) -> None:
        self._f = f

    def __getattr__(self, name: str) -> Any:
        return getattr(self._f, name)

    def close(self) -> None:
        pass


def _scale(image: Any, min_side: int) -> tuple[int, int]:
    width, height = image.size
    for scale in 8, 4, 2:
        # Where a side is no multiple, the last pixels are averages of fewer, and the whole image is shifted.
        if min(width, height) >= min_side * scale and not (width % scale or height % scale):
            image.draft(None, (width // scale, height // scale))
            break
    return image.size


# Limits on what decoders do for a few bytes. Files are read in chunks: a mapped one would end the process by SIGBUS
# where its disk is damaged or where it is cut meanwhile, and some file systems cannot map files.
def _check_parts(image: Image.Image, f: IO[bytes]) -> None:
    scans = min(_MAX_SCANS, _MAX_SCANNED // (image.width * image.height)), 'scans', _count_scans
    limits = {'JPEG': scans, 'MPO': scans, 'JPEG2000': (_MAX_TILES, 'tiles', _count_tiles)}
    if image.format in limits:
        most, kind, count = limits[image.format]
        if count(f, most) > most:
            raise ValueError(f'more than {most:,} {kind} in an image of {image.width} x {image.height} pixels')


_MARKER = re.compile(b'\xff[\xc0-\xcf\xd8-\xfe]')       # but for restarts, which are within a scan
_SCAN, _START, _END = b'\xff\xda', b'\xff\xd8', b'\xff\xd9'


def _count_scans(f: IO[bytes], most: int) -> int:
    """The scans of a JPEG (ITU-T T.81, annex B), or any number above `most`. Segments are skipped by their length, as
    in decoders: scans of an EXIF thumbnail do not count, nor bytes after the image, such as a motion photo's video."""
    position = scans = segments = 0
    while True:
        f.seek(position)
        data, at = f.read(_CHUNK), 0
        while (match := _MARKER.search(data, at)) and match.end() + 2 <= len(data):
            scans, segments = scans + (match[0] == _SCAN), segments + 1
            if segments > _MAX_SEGMENTS:
                raise ValueError(f'more than {_MAX_SEGMENTS:,} segments')
            if match[0] == _END or scans > most:
                return scans
            at = match.end() + (0 if match[0] == _START else int.from_bytes(data[match.end():match.end() + 2], 'big'))
        if len(data) < _CHUNK:
            return scans
        position += match.start() if match else max(at, len(data) - 1)


# The marker of a codestream's size, with what follows up to the number of components (ISO/IEC 15444-1, A.5.1).
_SIZE = re.compile(b'\xff\x51(?=(.{38}))', re.DOTALL)


def _count_tiles(f: IO[bytes], most: int) -> int:
    # The tiles times channels of a JPEG 2000 image, or any number above `most`, wherever its sizes stand.
    def sizes() -> Iterator[int]:
        for position in itertools.count(0, _CHUNK):
            f.seek(position)
            data = f.read(_CHUNK + 40)
            yield from (_tiles(match[1]) for match in _SIZE.finditer(data) if match.start() < _CHUNK)
            if len(data) < _CHUNK:
                return
    return sum(itertools.islice(sizes(), most + 1))


def _tiles(fields: bytes) -> int:
    length, right, bottom, width, height, left, top, channels = struct.unpack('>H2x2I8x4IH', fields)
    if length != 38 + 3 * channels:
        return 1                                        # these bytes only look like a size
    columns, rows = -(-max(1, right - left) // max(1, width)), -(-max(1, bottom - top) // max(1, height))
    return columns * rows * max(1, channels)


_PNG, _MAX_COPIED = b'\x89PNG\r\n\x1a\n', 2 ** 28       # and bytes of a PNG


def _essential_chunks(f: IO[bytes]) -> io.BytesIO | None:
    """A copy of a PNG with the chunks that its pixels need, and a sound eXIf; None where that would not help. Pillow
    refuses an image for a wrong checksum in a comment, or for a long compressed one."""
    f.seek(0)
    if f.read(8) != _PNG:
        return None
    kept, size, dropped = [_PNG], 0, False
    for _ in range(_MAX_SEGMENTS):
        head = f.read(8)
        if len(head) < 8:
            return None
        length, kind = int.from_bytes(head[:4], 'big'), head[4:]
        if kind[0] & 32 and kind not in (b'tRNS', b'eXIf'):                 # lower case: ancillary
            f.seek(length + 4, io.SEEK_CUR)
            dropped = True
            continue
        size += length
        body = f.read(length + 4) if size <= _MAX_COPIED else b''
        if len(body) < length + 4:
            return None
        damaged = kind == b'eXIf' and zlib.crc32(kind + body[:-4]) != int.from_bytes(body[-4:], 'big')
        dropped |= damaged
        kept += [] if damaged else [head, body]
        if kind == b'IEND':
            return io.BytesIO(b''.join(kept)) if dropped else None
    return None


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):                # damaged EXIF does not damage the image
        return image.getexif().get(_ORIENTATION, 1)
    return 1


def _as_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith('I'):                      # 16-bit grey; Pillow's own conversion would clip it at 255
        grey = (np.clip(np.asarray(image, np.int64), 0, 65535) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))


_room, _in_memory = threading.Condition(), 0            # the pixels of the images in memory


@contextlib.contextmanager
def _room_for(pixels: int) -> Iterator[None]:
    global _in_memory  # noqa: PLW0603 (guarded by the condition)
    with _room:
        _room.wait_for(lambda: not _in_memory or _in_memory + pixels <= _PIXELS_AT_ONCE)
        _in_memory += pixels
    try:
        yield
    finally:
        with _room:
            _in_memory -= pixels
            _room.notify_all()


@contextlib.contextmanager
def _set_up_pillow() -> Iterator[None]:
    # Pillow warns of images above a limit of its own, refuses them at twice that, and warns of odd metadata. Filters
    # and limit belong to the process, and several threads decode at once.
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', module=r'PIL\.')
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_pillow_quiet = SharedContext(_set_up_pillow)
