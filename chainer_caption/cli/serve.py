"""serve: caption images over HTTP, and on a web page."""
import argparse
import os
import socket

from chainer_caption.cli import common
from chainer_caption.cli.stopping import Stopping
from chainer_caption.errors import InputError
from chainer_caption.service.limits import Limits
from chainer_caption.storage.files import unreadable

EXAMPLES = '''\
  serve.py --port 8080                      then open http://127.0.0.1:8080
  serve.py -m model -i VGG_ILSVRC_19_layers.caffemodel --port 9000 -g 0
  curl --data-binary @dog.jpg http://127.0.0.1:8000/v1/captions
  curl -F p=@dog.jpg -F p=@cat.jpg 'http://127.0.0.1:8000/v1/captions?top=1&beam_width=5'
  serve.py --allowed-origin https://captions.example        behind a proxy on this machine
  serve.py --host 0.0.0.0 --token-file token --ssl-certfile cert.pem --ssl-keyfile key.pem'''

TOKEN = 'CHAINER_CAPTION_TOKEN'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_models(parser)
    common.add_encoder_weights(parser)
    common.add_device(parser)
    common.add_encoder_precision(parser)
    common.add_provenance(parser, "made the model's features, if the model does not record it")
    add = parser.add_argument
    add('--max-pixels', type=int, default=Limits.image_pixels, metavar='N',
        help='refuse images of more pixels, and requests of more than ten times as many (%(default)s)')
    add('--port', type=int, default=8000, metavar='N', help='0 takes a free one (%(default)s)')
    add('--host', default='127.0.0.1', metavar='ADDRESS',
        help='address to listen on (%(default)s: this machine alone; others need a token)')
    add('--allowed-host', action='append', default=[], metavar='NAME',
        help="name of this machine in the service's URL, besides its address (repeatable)")
    add('--allowed-origin', action='append', default=[], metavar='ORIGIN',
        help='origin of the page behind a proxy, such as https://captions.example (repeatable)')
    add('--ssl-certfile', metavar='FILE', help='certificate, PEM: serve HTTPS')
    add('--ssl-keyfile', metavar='FILE', help='its key, if it is not in the same file')
    add('--token-file', metavar='FILE',
        help=f'file with the token that requests must have (default: the variable {TOKEN})')


def run(args: argparse.Namespace) -> int:
    try:
        from chainer_caption.service.server import check_certificate, is_loopback, listen, open_server
    except ModuleNotFoundError as e:
        raise InputError(f'{e.name} is not installed: scripts/setup.sh serve installs what the service needs') from e
    token = _token(args.token_file)
    if args.max_pixels < 1:
        raise InputError.of('max_pixels', args.max_pixels, 'must be at least 1')
    if args.ssl_certfile is not None:
        check_certificate(args.ssl_certfile, args.ssl_keyfile)
    elif args.ssl_keyfile is not None:
        raise InputError.of('ssl_keyfile', args.ssl_keyfile, 'needs --ssl-certfile, too')
    with listen(args.host, args.port) as listening:
        if token is None and not is_loopback(listening):
            raise InputError.of('host', args.host, 'other machines can reach this address, so requests need a token; '
                                f'name its file with --token-file, or set {TOKEN}')
        from chainer_caption.captioning.captioner import Captioner
        captioner = Captioner.load(args.model, common.device(args.gpu), args.encoder_weights, args.encoder,
                                   args.preprocessing, max_pixels=args.max_pixels, say=common.say,
                                   encoder_precision=args.encoder_precision or 'float32')
        facts = common.model_facts(captioner, captioner.search())
        hosts = args.allowed_host if is_loopback(listening) else [*args.allowed_host, socket.gethostname()]
        with open_server(captioner, Limits(image_pixels=args.max_pixels), facts, hosts, args.allowed_origin, token,
                         args.ssl_certfile, args.ssl_keyfile) as server, Stopping() as stop:
            common.say(f'serving at {_address(listening, args.ssl_certfile is not None)} (Ctrl-C ends it)')
            server.run([listening])
            stop()
            return stop.status


def _address(listening: socket.socket, encrypted: bool) -> str:
    host, port = listening.getsockname()[:2]
    return f'http{"s" * encrypted}://' + (f'[{host}]:{port}' if ':' in host else f'{host}:{port}')


def _token(path: str | None) -> str | None:
    """The token; None where there is none."""
    token = os.environ.get(TOKEN)
    if path is not None:
        try:
            with open(path, encoding='ascii') as f:
                token = f.read(2 ** 16).strip()
        except UnicodeDecodeError:
            token = ''
        except OSError as e:
            raise unreadable(path, e) from e
    if token is not None and not (len(token) >= 16 and token.isascii() and token.isprintable() and ' ' not in token):
        raise InputError(f'{path or TOKEN}: a token has 16 or more ASCII characters and no spaces; '
                         "python3 -c 'import secrets; print(secrets.token_urlsafe())' makes one")
    return token
