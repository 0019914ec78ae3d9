"""The application: its addresses, and what they answer."""
import asyncio

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from chainer_caption.errors import InputError
from chainer_caption.report.rows import json_line, row_of
from chainer_caption.service.openapi import describe
from chainer_caption.service.options import search_of
from chainer_caption.service.page import make_page
from chainer_caption.service.queue import Busy
from chainer_caption.service.uploads import Uploads


def make_app(captioner, queue, limits, facts):
    """An ASGI application that captions images.

    Args:
        captioner (Captioner): Says which search a request without options has.
        queue (CaptionQueue): Where images wait for it.
        limits (Limits): What is too much.
        facts (dict): What captions, in the words that the page shows: `{'Model': 'demo'}`.
    """
    uploads = Uploads(limits, queue.busy)
    (page, headers), description = make_page(facts, limits), describe(limits)

    async def captions(request):
        search = search_of(captioner, request.query_params.multi_items())
        async with uploads.read(request) as images:
            results = await _results(request, queue, queue.submit(images, search), limits.answer_seconds)
        return Response(json_line([row_of(result) for result in results]), media_type='application/json')

    async def health(request):
        return JSONResponse({'status': 'ok', 'waiting': len(queue)})

    async def openapi(request):
        return JSONResponse(description)

    async def index(request):
        return HTMLResponse(page, headers=headers)

    return Starlette(exception_handlers=_REFUSALS, routes=[
        Route('/', index), Route('/healthz', health), Route('/openapi.json', openapi),
        Route('/v1/captions', captions, methods=['POST'])])


async def _results(request, queue, futures, seconds):
    """Waits for the results of images. Captions that nobody waits for any more are not made."""
    results = asyncio.ensure_future(_all(futures))
    # The body is here; all that can still come is that who sent it has gone.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait([results, gone], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if results.done():
            return results.result()
        raise ClientDisconnect if gone.done() else queue.busy()
    except InputError as e:                             # such as too little memory: no fault of the request
        raise HTTPException(500, str(e)) from e
    finally:
        gone.cancel()
        results.cancel()


async def _all(futures):
    return await asyncio.gather(*map(asyncio.wrap_future, futures))


async def _http(request, e):
    return _refusal(e.status_code, e.detail, e.headers)


async def _input(request, e):
    return _refusal(400, str(e))


async def _busy(request, e):
    return _refusal(503, str(e), {'retry-after': str(e.seconds)})


async def _gone(request, e):
    return Response()                                   # which nobody will see


def _refusal(status, error, headers=None):
    return JSONResponse({'error': error}, status, headers)


_REFUSALS = {HTTPException: _http, InputError: _input, Busy: _busy, ClientDisconnect: _gone}
