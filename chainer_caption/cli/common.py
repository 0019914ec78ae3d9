"""What several commands share."""
import argparse
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


def add_search(parser):
    """The options of a search; `search_options` reads them."""
    parser.add_argument('--beam-width', type=int, metavar='N',
                        help="1 is greedy search (default: what the model directory says, else 20)")
    parser.add_argument('--top', type=int, metavar='N', help='captions a picture (5, or the beam width if less)')
    parser.add_argument('--max-length', type=int, metavar='N', help='words at most (60)')
    parser.add_argument('--allow-unk', action='store_true', default=None, help='let captions say <UNK>')
    parser.add_argument('--length-normalization', type=float, metavar='A',
                        help='compare captions by log-probability / tokens ** A (default: what the model directory '
                             'says, else 0: not normalised)')


def search_options(args):
    """Those options of `BeamSearch` that were given: a dict for `Captioner.search`."""
    return given(width=args.beam_width, top=args.top, max_length=args.max_length, allow_unk=args.allow_unk,
                 length_normalization=args.length_normalization)


def whole_numbers(text):
    """The type of an option that takes several whole numbers with commas between them."""
    try:
        return [int(number) for number in text.split(',')]
    except ValueError as e:
        raise argparse.ArgumentTypeError(f'{text!r} is no list of whole numbers, such as 1,3,5') from e


def given(**options):
    """Those options that somebody has given: all but None."""
    return {name: value for name, value in options.items() if value is not None}


def say(line):
    print(printable(line), file=sys.stderr, flush=True)


def failure(filename, reason):
    """The line on a picture that could not be read, for a terminal."""
    return printable(f'{filename}: {reason}').encode(errors='backslashreplace').decode()
