"""Reads any image as 8-bit RGB; what cannot be read is one `ImageError`."""
import contextlib
import io
import itertools
import mmap
import os
import re
import stat
import struct
import threading
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from chainer_caption.errors import printable
from chainer_caption.parallel import SharedContext

# What is tried on a file, whatever its name says. Pillow knows more formats, but some of them start other programs.
_FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')

#: Images of more pixels than this are refused before they are decoded, which takes four bytes for each (sixteen in
#: WebP): a phone's largest are 50 to 108 million, and a file of a few kilobytes can claim to be of billions.
MAX_PIXELS = 120_000_000

# JPEG's own limit. What is longer is no photo, and its resampling could take any amount of memory.
_MAX_SIDE = 65_535

# Images that are in memory at the same time have no more pixels than this together, whatever the number of threads;
# one of more is alone.
_PIXELS_AT_ONCE = 48_000_000

# A larger file is no image; some decoders would read it as a whole.
_MAX_BYTES = 2 ** 30

# A progressive JPEG says what to refine in scans, ten as a rule; in a few bytes each they can go over the whole image
# for hours. Pixels times scans.
_MAX_SCANNED, _MAX_SCANS = 5_000_000_000, 10_000

# Tiles times channels of a JPEG 2000 image, for each of which its decoder takes some kilobytes beforehand. Tiles of
# 256 x 256 are usual.
_MAX_TILES = 100_000

# What is larger comes out of a camera, and takes longer to decode than all that is done with it after that.
_OF_A_CAMERA = 8_000_000

_PIXELS_OF_A_BAND = 2 ** 18     # converted at a time

# EXIF's orientations: whether the rows of what is stored are flipped, whether its columns are, and whether rows and
# columns are exchanged after that.
_TURNS = {1: (False, False, False), 2: (False, True, False), 3: (True, True, False), 4: (True, False, False),
          5: (False, False, True), 6: (True, False, True), 7: (True, True, True), 8: (False, True, True)}
_ORIENTATION = 0x0112


class ImageError(ValueError):
    """One image that cannot be used; the run that met it can go on.

    Attributes:
        path (str or None): The image, where it has a name. `str(error)` is the reason alone, in one line.
    """

    def __init__(self, path, reason):
        super().__init__(printable(reason))
        self.path = path


class DecodedImage:
    """A decoded image as it is meant to be seen, whose parts become RGB when they are asked for.

    It is read like an array: `image[top:bottom, left:right]` is RGB, (H, W, 3), uint8, and `numpy.asarray(image)`
    all of it. Turned and converted as a whole, a large image would take two or three times the memory.

    Grey and palette images, CMYK and 16 bits a channel become 8-bit RGB; what is transparent is laid on white, as a
    web page shows it.

    Args:
        image (PIL.Image.Image): The image, decoded.
        orientation (int): How it is to be turned, in EXIF's numbers; 1, or any that EXIF does not know, leaves it.

    Attributes:
        shape (tuple of int): (H, W, 3).
    """

    def __init__(self, image, orientation=1):
        if image.mode == 'F':
            raise ValueError('floating-point pixels, which have no known range; save it with 8 or 16 bits a channel')
        self._image = image
        self._turn = _TURNS.get(orientation, _TURNS[1])
        self.shape = (image.width, image.height, 3) if self._turn[2] else (image.height, image.width, 3)

    def __getitem__(self, part):
        flip_rows, flip_columns, exchange = self._turn
        rows, columns = (range(length)[wanted] for wanted, length in zip(part, self.shape, strict=False))
        if exchange:
            rows, columns = columns, rows
        width, height = self._image.size
        top, bottom = (height - rows.stop, height - rows.start) if flip_rows else (rows.start, rows.stop)
        left, right = (width - columns.stop, width - columns.start) if flip_columns else (columns.start, columns.stop)
        rgb = _as_rgb(self._image.crop((left, top, right, bottom)))
        rgb = rgb[::-1 if flip_rows else 1, ::-1 if flip_columns else 1]
        return rgb.transpose(1, 0, 2) if exchange else rgb

    def __array__(self, dtype=None, copy=None):
        array = np.empty(self.shape, np.uint8)
        for band in bands(self.shape[0], self.shape[1]):
            array[band] = self[band, :]
        return array if dtype is None else array.astype(dtype, copy=False)

    def to_image(self):
        """The whole as a PIL.Image.Image of the mode RGB; it may share the image's memory."""
        if self._image.mode == 'RGB' and not self._image.has_transparency_data and not any(self._turn):
            return self._image
        image = Image.new('RGB', self.shape[1::-1])
        for band in bands(self.shape[0], self.shape[1]):
            image.paste(Image.fromarray(np.ascontiguousarray(self[band, :])), (0, band.start))
        return image


def bands(length, breadth):
    """Cuts an image into bands of a size that does not count beside a large one's.

    Args:
        length (int): The side that is cut, in pixels.
        breadth (int): The other side.

    Yields:
        slice: Of `length`, one after the other.
    """
    step = max(1, _PIXELS_OF_A_BAND // breadth)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


@contextlib.contextmanager
def open_image(path, honour_exif=True, max_pixels=MAX_PIXELS, least=None):
    """Decodes an image; its memory is given back when the block ends, and large ones wait for each other.

    Args:
        path (str, os.PathLike or binary file): A JPEG, PNG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 or AVIF file, whatever
            its name; of an animation the first frame is taken. An open file, which may be an `io.BytesIO`, is read from
            its beginning and left open.
        honour_exif (bool): Turn the image as its EXIF orientation says. Features published in the years of the
            VGG encoders were made without.
        max_pixels (int): An image of more is refused, by its header alone.
        least (int or None): A JPEG image of more than 8 megapixels may come at a half, a quarter or an eighth of its
            size, as long as neither side falls below so many pixels: its decoder can average them on the way, which
            takes a fraction of the time and of the memory. None has it as it is.

    Yields:
        DecodedImage: The image; not to be used outside the block.

    Raises:
        ImageError: The file is missing or cannot be read, is no image or a damaged one, or is too large. No
            other exception and no warning comes out of here, whatever the file holds.
    """
    with contextlib.ExitStack() as held:
        f = path if hasattr(path, 'read') else None
        path = getattr(f, 'name', None) if f else os.fspath(path)
        try:
            held.enter_context(_pillow_quiet)
            f = f or held.enter_context(_open_regular(path))
            image = _decode(f, honour_exif, max_pixels, least, held)
        except UnidentifiedImageError as e:
            raise ImageError(path, 'not an image in a format known here, or cut off within its header') from e
        except OSError as e:
            raise ImageError(path, f'cannot be read ({e.strerror})' if e.strerror else _one_line(e)) from e
        except MemoryError as e:
            raise ImageError(path, 'not enough memory to decode it') from e
        except Exception as e:                          # Pillow's decoders raise nearly anything on damaged files
            raise ImageError(path, _one_line(e)) from e
        yield image


def _decode(f, honour_exif, max_pixels, least, held):
    # `held` keeps what has to be undone when the image is not needed any more.
    image = held.enter_context(_open_image(f))
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f'{width} x {height} pixels are more than the limit of {max_pixels:,}')
    if max(width, height) > _MAX_SIDE:
        raise ValueError(f'{width} x {height} pixels: a side of more than {_MAX_SIDE:,}')
    _check_parts(image, f)
    if least is not None and image.format in ('JPEG', 'MPO'):
        width, height = _scaled(image, least)
    # Pillow's way of reading WebP, which animations can be, takes three copies besides.
    held.enter_context(_room_for(width * height * (4 if image.format == 'WEBP' else 1)))
    held.callback(image.close)
    image.load()
    return DecodedImage(image, _orientation(image) if honour_exif else 1)


def _scaled(image, least):
    width, height = image.size
    for scale in (8, 4, 2) if width * height > _OF_A_CAMERA else ():
        # Where a side is no multiple, the last pixels would be averages of less, and everything out of its place.
        if min(width, height) >= least * scale and not width % scale and not height % scale:
            image.draft(None, (width // scale, height // scale))
            break
    return image.size


def _open_regular(path):
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):                # opening a pipe would wait for its writer, for ever
        raise ValueError('a folder that cannot be listed' if stat.S_ISDIR(status.st_mode) else 'not a regular file')
    if not status.st_size:
        raise ValueError('the file is empty')
    if status.st_size > _MAX_BYTES:
        raise ValueError(f'a file of {status.st_size:,} bytes is no image')
    return open(path, 'rb')


def _open_image(f):
    f.seek(0)
    Image.init()
    return Image.open(_Lent(f), formats=[name for name in _FORMATS if name in Image.OPEN])


class _Lent:
    """A file that stays open when Pillow closes it: whoever has opened it does that."""

    def __init__(self, f):
        self._f = f

    def __getattr__(self, name):
        return getattr(self._f, name)

    def close(self):
        pass


def _check_parts(image, f):
    # Wherever in the file their marks stand: that may be more than decoders find, but not many more.
    if image.format in ('JPEG', 'MPO', 'JPEG2000'):
        with _bytes_of(f) as data:
            if image.format == 'JPEG2000':
                most, what = _MAX_TILES, 'tiles'
                parts = sum(map(_tiles, itertools.islice(_SIZE.finditer(data), most + 1)))
            else:
                most, what = min(_MAX_SCANS, _MAX_SCANNED // (image.width * image.height)), 'scans'
                parts = sum(1 for _ in itertools.islice(_SCAN.finditer(data), most + 1))
        if parts > most:
            raise ValueError(f'more than {most:,} {what} in an image of {image.width} x {image.height} pixels')


def _bytes_of(f):
    # What is in memory is looked at there, and what is on the disk without reading all of it.
    return f.getbuffer() if isinstance(f, io.BytesIO) else mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)


_SCAN = re.compile(b'\xff\xda')

# The marker of a codestream's size, with what follows up to the number of components (ISO/IEC 15444-1, A.5.1).
_SIZE = re.compile(b'\xff\x51(?=(.{38}))', re.DOTALL)


def _tiles(match):
    length, right, bottom, width, height, left, top, channels = struct.unpack('>H2x2I8x4IH', match[1])
    if length != 38 + 3 * channels:
        return 1                                        # it only looks like one
    columns, rows = -(-max(1, right - left) // max(1, width)), -(-max(1, bottom - top) // max(1, height))
    return columns * rows * max(1, channels)


def _orientation(image):
    with contextlib.suppress(Exception):                # a damaged EXIF block is no damage to the image
        return image.getexif().get(_ORIENTATION)
    return 1


def _one_line(error):
    return ' '.join(str(error).split()) or type(error).__name__


def _as_rgb(image):
    if image.mode.startswith('I'):                      # 16-bit grey; Pillow's own conversion would clip it at 255
        grey = np.clip(np.asarray(image, np.int64), 0, 65535)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))


_room = threading.Condition()
_in_memory = 0


@contextlib.contextmanager
def _room_for(pixels):
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
def _set_up_pillow():
    # Pillow warns of images above a limit of its own and refuses them at twice that, and warns of oddities in the
    # metadata. Filters and limit are the process's, while images are read by many threads.
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', module=r'PIL\.')
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_pillow_quiet = SharedContext(_set_up_pillow)
