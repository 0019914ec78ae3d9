"""The server, from binding an address until a signal ends it."""
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

Path = str | os.PathLike[str]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket at an address or a name; port 0 takes a free one.

    Raises InputError: the address cannot be bound."""
    if not 0 <= port < 2 ** 16:                         # or the system would take another one
        raise InputError.of('port', port, 'must be from 0 to 65535')
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening, address = socket.socket(*found[:3]), found[4]
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


def check_certificate(certfile: Path, keyfile: Path | None) -> None:
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
                origins: Iterable[str] = (), token: str | None = None, certfile: Path | None = None,
                keyfile: Path | None = None) -> Iterator[uvicorn.Server]:
    """A server that captions images; `run([listening])` serves until a signal, and answers all complete requests.

    The `Captioner` has an encoder; `facts` is what the page shows of the model: `{'Model': 'demo'}`; hosts, origins and
    token are those of `Guard`; certificate and key are PEM, for HTTPS."""
    with CaptionQueue(captioner, limits.waiting, limits.image_steps // 2) as queue:
        _warm_up(queue, captioner)
        # The parser of forms logs each damaged one; the client is told, and the log is not filled by others.
        logging.getLogger('python_multipart').setLevel(logging.CRITICAL)
        app = Guard(make_app(captioner, queue, limits, facts), hosts, origins, token)
        yield uvicorn.Server(uvicorn.Config(
            app, http=connection_type(limits), ws='none', lifespan='off', loop='asyncio', backlog=128,
            proxy_headers=False, server_header=False, access_log=False, log_config=None, log_level='error',
            ssl_certfile=certfile, ssl_keyfile=keyfile))
