"""What several commands share."""
import sys

from chainer_caption.errors import InputError, printable
from chainer_caption.features.networks import NETWORKS
from chainer_caption.features.profiles import PROFILES
from chainer_caption.parallel import Processes


def add_device(parser):
    parser.add_argument('-g', '--gpu', default='-1', metavar='GPU',
                        help='GPU to use, by its number; -1, the default, uses the CPU (a Chainer device such as '
                             '@cupy:0 is taken too)')


def device(gpu, processes=None):
    """The Chainer device that `-g` names.

    Args:
        gpu (str): What `-g` was given.
        processes (Processes or None): Those at work, of which each gets a device of its own; None for this one alone.

    Raises:
        InputError: There is no such device.
    """
    import chainer
    from chainer.backends import cuda
    name = gpu if gpu.startswith('@') else '@numpy' if gpu == '-1' else f'@cupy:{gpu}'
    if name.startswith('@cupy') and not (cuda.available and cuda.cupy.cuda.is_available()):
        raise InputError(f'-g {gpu}: no GPU can be used here: CuPy is not installed or sees no CUDA device '
                         '(scripts/setup.sh cuda13x or cuda12x installs it); leave out -g to use the CPU')
    try:
        return (processes or Processes()).device(chainer.get_device(name))
    except InputError:
        raise
    except Exception as e:
        raise InputError(f'-g {gpu}: no such device ({e})') from e


def add_origin(parser, of):
    parser.add_argument('--network', choices=sorted(NETWORKS), help=f'the network that {of}')
    parser.add_argument('--profile', choices=sorted(PROFILES), help='and how the pictures were prepared for it')


def say(line):
    print(printable(line), file=sys.stderr, flush=True)


def failure(filename, reason):
    """The line on a picture that could not be read, for a terminal."""
    return printable(f'{filename}: {reason}').encode(errors='backslashreplace').decode()
