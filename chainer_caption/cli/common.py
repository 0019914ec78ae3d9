"""What several commands share."""
import argparse
import os
import sys

from chainer_caption.errors import InputError, printable
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.preprocessing import PREPROCESSINGS
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


def add_precision(parser):
    parser.add_argument('--precision', default='float32', metavar='P',
                        help='float32, or bf16: matrix products of factors rounded to bfloat16, which is faster on '
                             'CPUs that have AVX512_BF16 (%(default)s)')


def add_models(parser):
    """`-m` of commands that caption images: a list of folders, or None for the captioner that comes along."""
    parser.add_argument('-m', '--model', action='append', metavar='MODEL',
                        help='model directory that train.py wrote; several, each with -m, caption as one (default: '
                             'the one that comes along, which has learned from Flickr8k)')


def add_provenance(parser, of):
    parser.add_argument('--encoder', choices=sorted(ENCODERS), help=f'the encoder that {of}')
    parser.add_argument('--preprocessing', choices=sorted(PREPROCESSINGS),
                        help='and how the images were prepared for it')


# The options of all searches, of those that draw captions, and of those that search with beams.
LIMITS = 'top', 'max_length', 'min_length', 'no_repeat_ngram', 'allow_unk'
OF_SAMPLES = 'temperature', 'top_k', 'top_p', 'seed'
OF_BEAMS = 'beam_width', 'beam_widths', 'length_normalization', 'beam_groups', 'diversity_penalty'


def add_beam(parser):
    """The options of one beam search, but for `LIMITS`."""
    parser.add_argument('--beam-width', type=int, metavar='N',
                        help="1 is greedy search (default: what the model directory says, else 20)")
    parser.add_argument('--top', type=int, metavar='N', help='captions an image (5, or the beam width if less)')
    parser.add_argument('--length-normalization', type=float, metavar='A',
                        help='compare captions by log-probability / tokens ** A (default: what the model directory '
                             'says, else 0: not normalised)')


def add_limits(parser):
    """What captions may say."""
    parser.add_argument('--max-length', type=int, metavar='N', help='words at most (60)')
    parser.add_argument('--min-length', type=int, metavar='N', help='words at least (0)')
    parser.add_argument('--no-repeat-ngram', type=int, metavar='N',
                        help='say no N words in a row twice in a caption (0: allowed)')
    parser.add_argument('--allow-unk', action='store_true', default=None, help='let captions say <UNK>')


def add_ways(parser):
    """Other searches than the beam's."""
    parser.add_argument('--beam-groups', type=int, metavar='G',
                        help='diverse beam search: cut the beam into G groups, which avoid each other\'s words')
    parser.add_argument('--diversity-penalty', type=float, metavar='D',
                        help='nats that a word loses for each hypothesis of an earlier group that says it (0.5)')
    parser.add_argument('--sample', action='store_true', default=None,
                        help='draw captions from the model in place of searching for the likeliest')
    parser.add_argument('--temperature', type=float, metavar='T', help='below 1 likely words are drawn more often (1)')
    parser.add_argument('--top-k', type=int, metavar='K', help='draw among the K likeliest words')
    parser.add_argument('--top-p', type=float, metavar='P',
                        help='draw among the likeliest words that have together this probability')
    parser.add_argument('--seed', type=int, metavar='S', help='what is drawn follows from it and the image (0)')


def check_ways(args):
    """Refuses options of `add_ways` and of beams that contradict each other."""
    for name in OF_BEAMS if args.sample else OF_SAMPLES:
        if getattr(args, name, None) is not None:
            raise InputError(f'--{name.replace("_", "-")} ' + ('is for beams; --sample draws captions' if args.sample
                                                               else 'belongs to --sample'))
    if args.diversity_penalty is not None and args.beam_groups is None:
        raise InputError('--diversity-penalty belongs to --beam-groups')


def search_of(args, captioner, **beam):
    """The search that the options name; `beam` has those of `BeamSearch` that `LIMITS` has not."""
    if args.sample:
        from chainer_caption.decoding import Sampling
        return Sampling(**options(args, *LIMITS, *OF_SAMPLES))
    return captioner.search(**options(args, *LIMITS, 'beam_groups', 'diversity_penalty'), **beam)


def options(args, *names):
    """Those options that were given, of some: a dict by their names."""
    return given(**{name: getattr(args, name) for name in names})


def beam_options(args):
    """What `add_beam` has of `BeamSearch` besides `LIMITS`."""
    return given(width=args.beam_width, length_normalization=args.length_normalization)


def model_facts(captioner, search):
    """What captions, in the words that pages show.

    Args:
        captioner (Captioner): The model, or several.
        search (BeamSearch, DiverseBeamSearch or Sampling): What it captions with.
    """
    provenance = captioner.bundle.provenance or {'encoder': 'unknown', 'preprocessing': 'unknown'}
    if captioner.extractor is not None:
        provenance = {'encoder': captioner.extractor.encoder, 'preprocessing': captioner.extractor.preprocessing}
    return {'Model': ' + '.join(map(name_of, captioner.names)), 'Encoder': provenance['encoder'],
            'Preprocessing': provenance['preprocessing'], 'Search': str(search)}


def name_of(path):
    """The last part of a path, which has one even if it is `.`."""
    return os.path.basename(os.path.abspath(path))


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
    """The line on an image that could not be read, for a terminal."""
    return printable(f'{filename}: {reason}').encode(errors='backslashreplace').decode()
