"""What `Captioner.caption` takes as an image: paths, folders, PIL images, arrays, bytes and open files."""
import contextlib
import dataclasses
import io
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from chainer_caption.errors import InputError
from chainer_caption.features.folders import find_images
from chainer_caption.features.images import DecodedImage, ImageError

_ORIENTATION = 0x0112

# Pillow decodes an image when its pixels are first used, which two threads must not do at once.
_decoding = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An image to be captioned."""
    path: str | None                        #: where it lies; None for an image in memory
    name: str = ''                          #: the name of an image in memory
    image: Any = None                       #: the image in memory: a PIL image, an array (H, W, 3), or a file's content

    @property
    def filename(self) -> str:
        return self.name if self.path is None else self.path


def sources(images: Any) -> Iterable[Source]:
    """The images that `Captioner.caption` was called with, in their order; folders are walked.

    An iterator is consumed as it is needed; of anything else the types are checked at once. TypeError if something is
    no image, InputError if an array has another shape or type."""
    if _is_single(images):
        images = [images]
    elif isinstance(images, dict | io.IOBase) or not isinstance(images, Iterable):
        raise _no_image(images)
    found = _expand(images)
    return found if isinstance(images, Iterator) else list(found)


def _is_single(images: Any) -> bool:
    return isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | Image.Image) \
        or (hasattr(images, 'read') and not isinstance(images, io.TextIOBase))


def _expand(images: Iterable[Any]) -> Iterator[Source]:
    number = 0                                          # of images so far, for the names of those in memory
    for image in images:
        if not _is_single(image):
            raise _no_image(image)
        if isinstance(image, str | os.PathLike):
            found = [Source(path) for path in find_images(image)]
        elif isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3 or not image.size:
                raise InputError('an array of images is (H, W, 3) or (N, H, W, 3), RGB, of uint8; this is '
                                 f'{image.shape} of {image.dtype}')
            found = [Source(None, '', one) for one in (image if image.ndim == 4 else image[None])]
        else:
            named = getattr(image, 'filename', None) or getattr(image, 'name', None)
            found = [Source(None, named if isinstance(named, str) else '', image)]
        for source in found:
            number += 1
            yield source if source.filename else dataclasses.replace(source, name=f'image {number}')


def _no_image(value: Any) -> TypeError:
    if isinstance(value, io.TextIOBase):
        return TypeError("an image was opened as text; open it in the mode 'rb'")
    return TypeError('images are paths, folders, PIL images, arrays (H, W, 3) or (N, H, W, 3) of uint8, bytes and '
                     f'binary files, one or an iterable of them, not {type(value).__name__}')


def read_source(source: Source, honour_exif: bool = True) -> str | io.BytesIO:
    """The image as `open_image` takes it: its path, or the content of a file.

    Raises ImageError: an image in memory cannot be read."""
    if source.path is not None:
        return source.path
    image = source.image
    try:
        if isinstance(image, bytes | bytearray | memoryview):
            return io.BytesIO(image)
        if hasattr(image, 'read'):
            with _decoding:                             # the same file may be given twice
                if image.seekable():
                    image.seek(0)
                return io.BytesIO(image.read())
        if isinstance(image, Image.Image):
            with _decoding:
                image.load()
                orientation = 1
                with contextlib.suppress(Exception):    # damaged EXIF does not damage the image
                    orientation = image.getexif().get(_ORIENTATION, 1) if honour_exif else 1
                image = np.asarray(DecodedImage(image, orientation))
    except Exception as e:                              # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(source.name, str(e) or type(e).__name__) from e
    # PPM: a header and the pixels.
    return io.BytesIO(b'P6 %d %d 255\n' % (image.shape[1], image.shape[0]) + image.tobytes())
