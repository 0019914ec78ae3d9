"""The server: from an address to bind to until a signal ends it."""
import contextlib
import io
import ipaddress
import logging
import socket

import uvicorn
from PIL import Image

from chainer_caption.decoding import Sampling
from chainer_caption.errors import InputError
from chainer_caption.service.app import make_app
from chainer_caption.service.connections import connection_type
from chainer_caption.service.guard import Guard
from chainer_caption.service.queue import CaptionQueue


def listen(host, port):
    """A socket that listens.

    Args:
        host (str): An address or a name.
        port (int): 0 takes one that is free.

    Raises:
        InputError: Nobody can listen there.
    """
    if not 0 <= port < 2 ** 16:                         # or the system would take another one
        raise InputError(f'--port {port}: must be from 0 to 65535')
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                                flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as e:
        raise InputError(f'--host {host}: {e.strerror}') from e
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as e:
        listening.close()
        raise InputError(f'--host {host} --port {port}: cannot be listened at ({e.strerror})') from e
    return listening


def is_loopback(listening):
    """Whether a socket can be reached from this machine alone."""
    return ipaddress.ip_address(listening.getsockname()[0].partition('%')[0]).is_loopback


def _warm_up(queue, captioner):
    """Captions a blank image: what is compiled at first use shall keep nobody waiting."""
    blank = io.BytesIO()
    Image.new('RGB', (64, 64)).save(blank, 'PNG')
    for search in captioner.search(), Sampling(top=1):
        queue.submit([('blank', blank.getvalue())], search)[0].result()


@contextlib.contextmanager
def open_server(captioner, limits, facts, names=(), token=None):
    """A server that captions images.

    Args:
        captioner (Captioner): With an encoder.
        limits (Limits): What it takes at most.
        facts (dict): What captions, in the words that the page shows: `{'Model': 'demo'}`.
        names (iterable of str): What this machine is called, besides its addresses.
        token (str or None): What those must know who want captions.

    Yields:
        uvicorn.Server: To be run with the socket, by `run([listening])`, which returns after a signal when all that had
        come in is answered.
    """
    with CaptionQueue(captioner, limits.waiting) as queue:
        _warm_up(queue, captioner)
        # The parser of forms logs each one that is damaged; whoever sends them is told, and fills nobody's log.
        logging.getLogger('python_multipart').setLevel(logging.CRITICAL)
        app = Guard(make_app(captioner, queue, limits, facts), names, token)
        yield uvicorn.Server(uvicorn.Config(
            app, http=connection_type(limits), ws='none', lifespan='off', loop='asyncio', backlog=128,
            proxy_headers=False, server_header=False, access_log=False, log_config=None, log_level='error'))
