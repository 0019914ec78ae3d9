"""serve: captions over HTTP, and a page to drop images on."""
import os
import socket

from chainer_caption.cli.common import add_device, add_models, add_provenance, device, model_facts, say
from chainer_caption.cli.stopping import Stopping
from chainer_caption.errors import InputError
from chainer_caption.storage.files import unreadable

DESCRIPTION = 'Caption images over HTTP, for programs and by a page.'
EXAMPLES = '''\
  serve.py --port 8080                      then open http://127.0.0.1:8080
  serve.py -m model -i VGG_ILSVRC_19_layers.caffemodel --port 9000 -g 0
  curl --data-binary @dog.jpg http://127.0.0.1:8000/v1/captions
  curl -F p=@dog.jpg -F p=@cat.jpg 'http://127.0.0.1:8000/v1/captions?top=1&beam_width=5'
  serve.py -m model --host 0.0.0.0 --token-file token       for other machines, which must know the token'''

TOKEN = 'CHAINER_CAPTION_TOKEN'


def add_arguments(parser):
    from chainer_caption.features.images import MAX_PIXELS
    add_models(parser)
    parser.add_argument('-i', '--encoder-weights', metavar='WEIGHTS',
                        help="the image encoder's weights (.caffemodel, .npz, .pth, .safetensors)")
    add_device(parser)
    add_provenance(parser, "made the model's features, if the model does not record it")
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
                        help='refuse images of more (%(default)s)')
    parser.add_argument('--port', type=int, default=8000, metavar='N', help='0 takes a free one (%(default)s)')
    parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS',
                        help='where to listen (%(default)s, which this machine alone can reach; others need a token)')
    parser.add_argument('--allowed-host', action='append', default=[], metavar='NAME',
                        help='what this machine is called in addresses of the service, besides its own address')
    parser.add_argument('--token-file', metavar='FILE',
                        help=f'file with the token that requests must know (default: what {TOKEN} says)')


def run(args):
    try:
        from chainer_caption.service.limits import Limits
        from chainer_caption.service.server import is_loopback, listen, open_server
    except ModuleNotFoundError as e:
        raise InputError(f'{e.name} is not installed: scripts/setup.sh serve installs what a service needs') from e
    token = _token(args.token_file)
    with listen(args.host, args.port) as listening:
        if token is None and not is_loopback(listening):
            raise InputError(f'--host {args.host}: other machines can reach that, so requests need a token: name its '
                             f'file with --token-file, or set {TOKEN}')
        from chainer_caption.captioning.captioner import Captioner
        captioner = Captioner.load(args.model, device(args.gpu), args.encoder_weights, args.encoder, args.preprocessing,
                                   max_pixels=args.max_pixels, say=say)
        facts = model_facts(captioner, captioner.search())
        names = args.allowed_host if is_loopback(listening) else [*args.allowed_host, socket.gethostname()]
        with open_server(captioner, Limits(), facts, names, token) as server, Stopping() as stop:
            say(f'serving at {_address(listening)} (Ctrl-C ends it)')
            server.run([listening])
            stop()
            return stop.status


def _address(listening):
    host, port = listening.getsockname()[:2]
    return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


def _token(path):
    """The token; None where there is none."""
    if path is None:
        token, source = os.environ.get(TOKEN), TOKEN
    else:
        source = path
        try:
            with open(path, encoding='ascii') as f:
                token = f.read(2 ** 16).strip()
        except UnicodeDecodeError:
            token = ''
        except OSError as e:
            raise unreadable(path, e) from e
    if token is not None and not (len(token) >= 16 and token.isascii() and token.isprintable() and ' ' not in token):
        raise InputError(f'{source}: a token is 16 characters or more, of ASCII and without spaces; '
                         "python3 -c 'import secrets; print(secrets.token_urlsafe())' makes one")
    return token
