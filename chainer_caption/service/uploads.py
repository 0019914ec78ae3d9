"""Images out of the bodies of requests: in memory and within limits, never on the disk."""
import asyncio
import contextlib
import dataclasses

from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

# What an image is called that comes without a name.
_UNNAMED = 'image'


class Uploads:
    """Reads images from requests.

    Args:
        limits (Limits): What is too much.
        busy (callable): Gives the exception to raise where there is no room at the moment.
    """

    def __init__(self, limits, busy):
        self._limits, self._busy = limits, busy
        self._taken = 0                                 # bytes of all requests that are not answered yet

    @contextlib.asynccontextmanager
    async def read(self, request):
        """Reads the images of a request: the files of a form, or the body itself.

        Args:
            request (starlette.requests.Request): The request. Its room is free again when the block ends.

        Yields:
            list of tuple: Pairs of a name and the bytes of a file, (str, bytes); one at least.

        Raises:
            HTTPException: There are none, they are too much, too slow, or not whole.
            starlette.requests.ClientDisconnect: Whoever sent it has gone.
        """
        body = _Body()
        try:
            yield await asyncio.wait_for(self._images(request, body), self._limits.body_seconds)
        except asyncio.TimeoutError as e:
            raise HTTPException(408, f'the request was not here after {self._limits.body_seconds:g} s') from e
        finally:
            self._taken -= body.size

    async def _images(self, request, body):
        chunks = self._chunks(request, body)
        if request.headers.get('content-type', '').lower().startswith('multipart/'):
            images = await self._files(request, chunks)
        else:
            images = [(_UNNAMED, b''.join([chunk async for chunk in chunks]))]
        if not any(data for _, data in images):
            raise HTTPException(400, 'no image: send one as the body, or several as the files of a form')
        return images

    async def _chunks(self, request, body):
        # What says beforehand that it is too large need not come at all.
        self._check(int(request.headers.get('content-length', 0)))
        async for chunk in request.stream():
            body.size += len(chunk)
            self._taken += len(chunk)
            self._check(body.size)
            if self._taken > self._limits.all_bytes:
                raise self._busy()
            yield chunk

    def _check(self, size):
        if size > self._limits.body_bytes:
            raise HTTPException(413, f'a request has {self._limits.body_bytes:,} bytes at most')

    async def _files(self, request, chunks):
        try:
            form = await _Form(request.headers, chunks, self._limits.images).parse()
        except (MultiPartException, FormParserError) as e:
            raise HTTPException(400, getattr(e, 'message', 'the form is damaged')) from e
        parts = [part for _, part in form.multi_items()]
        if any(isinstance(part, str) for part in parts):
            await form.close()
            raise HTTPException(400, 'the form holds more than files; options belong into the address, as ?top=1')
        images = [(part.filename or _UNNAMED, part.file.read()) for part in parts]
        await form.close()
        return images


@dataclasses.dataclass
class _Body:
    size: int = 0                                       # bytes that are here


class _Form(MultiPartParser):
    """Keeps files in memory, where their bytes have been counted, and notices where the form is cut short."""
    spool_max_size = 0                                  # no limit

    def __init__(self, headers, chunks, max_files):
        self._ended = False
        super().__init__(headers, self._whole(chunks), max_files=max_files, max_fields=1, max_part_size=1024)

    async def _whole(self, chunks):
        async for chunk in chunks:
            yield chunk
        if not self._ended:
            raise MultiPartException('the form is cut short')

    def on_end(self):
        self._ended = True
