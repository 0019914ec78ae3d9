"""The server, from binding an address until a signal ends it."""
from __future__ import annotations

import contextlib
import io
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import uvicorn
from PIL import Image

from chainer_caption.decoding import Sampling
from chainer_caption.errors import InputError
from chainer_caption.service.app import make_app
from chainer_caption.service.connections import connection_type
from chainer_caption.service.guard import Guard
from chainer_caption.service.limits import Limits
from chainer_caption.service.queue import CaptionQueue


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        host: An address or a name.
        port: 0 takes a free one.

    Raises:
        InputError: The address cannot be bound.
    """
    if not 0 <= port < 2 ** 16:                         # or the system would take another one
        raise InputError.of('port', port, 'must be from 0 to 65535')
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                                flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as e:
        raise InputError.of('host', host, e.strerror or 'unknown') from e
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as e:
        listening.close()
        raise InputError.of('port', port, f'cannot listen there ({e.strerror})') from e
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Whether a socket can be reached from this machine alone."""
    return ipaddress.ip_address(listening.getsockname()[0].partition('%')[0]).is_loopback


def check_certificate(certfile: str | os.PathLike, keyfile: str | os.PathLike | None) -> None:
    """Raises InputError if a certificate and its key (None: in the same file) cannot be used."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
    except OSError as e:                                # ssl.SSLError is one
        files = f'{certfile}, {keyfile}' if keyfile else str(certfile)
        raise InputError(f'{files}: cannot be used for TLS ({e.strerror or e}); both are PEM files') from e


def _warm_up(queue: CaptionQueue, captioner: Any) -> None:
    """Captions a blank image, so that no request waits for compilation."""
    blank = io.BytesIO()
    Image.new('RGB', (64, 64)).save(blank, 'PNG')
    for search in captioner.search(), Sampling(top=1):
        queue.submit([('blank', blank.getvalue())], search)[0].result()


@contextlib.contextmanager
def open_server(captioner: Any, limits: Limits, facts: dict[str, str], hosts: Iterable[str] = (),
                origins: Iterable[str] = (), token: str | None = None, certfile: str | os.PathLike | None = None,
                keyfile: str | os.PathLike | None = None) -> Iterator[uvicorn.Server]:
    """A server that captions images.

    Args:
        captioner: A `Captioner` with an encoder.
        limits: Limits on requests and connections.
        facts: What the page shows of the model: `{'Model': 'demo'}`.
        hosts, origins, token: As for `Guard`.
        certfile, keyfile: Certificate and key for HTTPS, PEM.

    Yields:
        The server. `run([listening])` serves until a signal, and returns when all complete requests are answered.
    """
    with CaptionQueue(captioner, limits.waiting, limits.image_steps // 2) as queue:
        _warm_up(queue, captioner)
        # The parser of forms logs each damaged one; the client is told, and the log is not filled by others.
        logging.getLogger('python_multipart').setLevel(logging.CRITICAL)
        app = Guard(make_app(captioner, queue, limits, facts), hosts, origins, token)
        yield uvicorn.Server(uvicorn.Config(
            app, http=connection_type(limits), ws='none', lifespan='off', loop='asyncio', backlog=128,
            proxy_headers=False, server_header=False, access_log=False, log_config=None, log_level='error',
            ssl_certfile=certfile, ssl_keyfile=keyfile))
