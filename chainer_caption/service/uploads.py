"""Reads images from request bodies, in memory and within limits."""
import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

from PIL import Image
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from chainer_caption.features.images import _pillow_quiet
from chainer_caption.service.limits import Limits

Images = list[tuple[str, bytes]]
_LARGE = 16_000_000                                     # pixels of an image that takes long to decode
_UNNAMED = 'image'                                      # name of an image that has none

# Formats whose header is read for the number of pixels.
_FORMATS = 'JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF', 'HEIF'


class Uploads:
    """Reads images from requests, within limits; `busy` returns the exception to raise where there is no room."""

    def __init__(self, limits: Limits, busy: Callable[[], Exception]) -> None:
        self._limits, self._busy = limits, busy
        self._taken = 0                                 # bytes of all requests that are not answered yet

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[tuple[Images, bool]]:
        """Reads the images of a request, whose bytes count until the block ends: the files of a form, or the body.

        Yields pairs of a name and the bytes of a file, one at least, and whether an image takes long to decode. Raises
        HTTPException for what is no image and no form, too large, too slow or incomplete; ClientDisconnect."""
        sizes: list[int] = []
        try:
            yield await asyncio.wait_for(self._images(request, sizes), self._limits.body_seconds)
        except asyncio.TimeoutError as e:
            raise HTTPException(408, f'the request was incomplete after {self._limits.body_seconds:g} s') from e
        finally:
            self._taken -= sum(sizes)

    async def _images(self, request: Request, sizes: list[int]) -> tuple[Images, bool]:
        kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
        if request.headers.get('content-encoding', 'identity').lower() != 'identity':
            raise HTTPException(415, 'send the body without Content-Encoding', {'accept-encoding': 'identity'})
        if kind == 'application/json':
            raise HTTPException(415, 'JSON is not read: send the bytes of an image as the body, or several images as '
                                     'the files of a form (multipart/form-data)')
        chunks = self._chunks(request, sizes)
        images = await self._files(request, chunks) if kind.startswith('multipart/') else [
            (_UNNAMED, b''.join([chunk async for chunk in chunks]))]
        if not any(data for _, data in images):
            raise HTTPException(400, 'no image: send one as the body, or several as the files of a form')
        pixels = await asyncio.to_thread(_pixels, images)
        if sum(pixels) > self._limits.request_pixels:
            raise HTTPException(413, f'the images have more than {self._limits.request_pixels:,} pixels together, the '
                                     'limit for a request')
        return images, max(pixels) > _LARGE

    async def _chunks(self, request: Request, sizes: list[int]) -> AsyncIterator[bytes]:
        # A request that announces too many bytes is refused before they arrive.
        self._check(int(request.headers.get('content-length', 0)))
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            sizes.append(len(chunk))
            self._taken += len(chunk)
            self._check(size)
            if self._taken > self._limits.all_bytes:
                raise self._busy()
            yield chunk

    def _check(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise HTTPException(413, f'a request may have {self._limits.body_bytes:,} bytes')

    async def _files(self, request: Request, chunks: AsyncIterator[bytes]) -> Images:
        try:
            form = await _Form(request.headers, chunks, self._limits.images).parse()
        except (MultiPartException, FormParserError) as e:
            raise HTTPException(400, getattr(e, 'message', 'the form is damaged')) from e
        images = [(part.filename or _UNNAMED, part.file.read()) for _, part in form.multi_items()]
        await form.close()
        return images


def _pixels(images: Images) -> list[int]:
    """Pixels of each image, by its header; 0 for what is no image."""
    pixels = [0] * len(images)
    for i, (_, data) in enumerate(images):
        with contextlib.suppress(Exception), _pillow_quiet, \
                Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            pixels[i] = image.width * image.height
    return pixels


class _Form(MultiPartParser):
    """Parser of forms that keeps files in memory, where their bytes are counted, and notices incomplete forms."""
    spool_max_size = 0                                  # no limit

    def __init__(self, headers: Headers, chunks: AsyncIterator[bytes], max_files: int) -> None:
        self._ended = False
        super().__init__(headers, self._whole(chunks), max_files=max_files, max_fields=1, max_part_size=1024)

    async def _whole(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
        if not self._ended:
            raise MultiPartException('the form is incomplete')

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part: Any = self._current_part
        if part.file is None:
            raise MultiPartException(f'the part {part.field_name!r} of the form has no file name: send images as files '
                                     '(curl -F image=@dog.jpg), and options in the URL (?top=1)')

    def on_end(self) -> None:
        self._ended = True
