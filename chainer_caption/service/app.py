"""ASGI application: routes, and the answer of each."""
import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from chainer_caption.captioning.results import Result
from chainer_caption.errors import InputError
from chainer_caption.report.rows import json_line, row_of
from chainer_caption.service.limits import Limits
from chainer_caption.service.openapi import describe
from chainer_caption.service.options import read_options
from chainer_caption.service.page import make_page
from chainer_caption.service.queue import CaptionQueue, steps_of
from chainer_caption.service.uploads import Uploads


def make_app(captioner: Any, queue: CaptionQueue, limits: Limits, facts: dict[str, str]) -> Starlette:
    """The ASGI application. The `Captioner`'s default search answers requests without options; the page shows `facts`
    about the model: `{'Model': 'demo'}`."""
    uploads = Uploads(limits, queue.busy)
    (page, headers), description = make_page(facts, limits), describe(limits)

    async def captions(request: Request) -> Response:
        search, least = read_options(captioner, request.query_params.multi_items())
        _check_steps(search, limits, 1)
        async with uploads.read(request) as (images, large):
            _check_steps(search, limits, len(images))
            client = request.client.host if request.client else ''
            futures = queue.submit(images, search, client, limits.answer_seconds, large)
            results = await _results(request, queue, futures, limits.answer_seconds)
        rows = [row_of(result.if_confident(least)) for result in results]
        if all(result.error is not None for result in results):
            error = rows[0]['error'] if len(rows) == 1 else \
                f'none of the {len(rows)} images could be captioned; {rows[0]["filename"]}: {rows[0]["error"]}'
            return Response(json_line({'error': error, 'rows': rows}), 422, media_type='application/json')
        return Response(json_line(rows), media_type='application/json')

    async def health(request: Request) -> Response:
        return JSONResponse({'status': 'ok', 'waiting': len(queue)})

    # A response is an ASGI application, too: it is the same for every request.
    return Starlette(exception_handlers=_REFUSALS, routes=[
        Route('/', HTMLResponse(page, headers=headers), methods=['GET']), Route('/healthz', health),
        Route('/openapi.json', JSONResponse(description), methods=['GET']),
        Route('/v1/captions', captions, methods=['POST'])])


def _check_steps(search: Any, limits: Limits, images: int) -> None:
    steps = steps_of(search)
    for count, limit, of in (1, limits.image_steps, 'an image'), (images, limits.request_steps, 'a request'):
        if count * steps > limit:
            raise HTTPException(413, f'{count * steps:,} search steps (images x beam width x max_length, or x 10 x top '
                                f'with sample) are more than the limit of {limit:,} for {of}')


async def _results(request: Request, queue: CaptionQueue, futures: list, seconds: float) -> list[Result]:
    """Waits for the results of images; cancels what is left of them when the client has gone or the time is over."""
    results = asyncio.ensure_future(_all(futures))
    # The body is complete: the only message that can follow is the disconnection.
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


async def _all(futures: list) -> list[Result]:          # a task: cancelled, it is silent, and a bare gather is not
    return await asyncio.gather(*map(asyncio.wrap_future, futures))


async def _refuse(request: Request, e: Any) -> Response:
    if isinstance(e, HTTPException):
        return JSONResponse({'error': e.detail}, e.status_code, e.headers)
    return JSONResponse({'error': str(e)}, 400)         # to a closed connection, if the client has gone


_REFUSALS: dict = dict.fromkeys((HTTPException, InputError, ClientDisconnect), _refuse)
