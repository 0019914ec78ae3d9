"""Options and helpers that several commands share. Each `add_…` takes a parser or one of its argument groups."""
import argparse
import os
from typing import TYPE_CHECKING, Any

from chainer_caption.cli import progress
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.onnx_names import is_onnx_file
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.parallel import Processes

if TYPE_CHECKING:
    from chainer_caption.captioning.captioner import Captioner

say, failure = progress.say, progress.failure


def add_device(parser: Any) -> None:
    parser.add_argument('-g', '--gpu', default='-1', metavar='GPU', help='GPU to use, by its number; -1, the default, '
                        'is the CPU (a Chainer device such as @cupy:0 works as well)')


def device(gpu: str, processes: Processes | None = None) -> Any:
    """The Chainer device that `-g` names; each of several processes gets its own. InputError if there is none."""
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


def add_precision(parser: Any) -> None:
    parser.add_argument('--precision', default='float32', metavar='P',
                        help='float32 or bf16: bf16 rounds the factors of matrix products to bfloat16, which is '
                        'faster on CPUs with AVX512_BF16 (default: %(default)s)')


def add_encoder_precision(parser: Any) -> None:
    parser.add_argument('--encoder-precision', metavar='P', help='float32 or bf16: bf16 computes the image encoder in '
                        'OpenVINO, which is faster on CPUs with bfloat16; scripts/setup.sh openvino installs it '
                        '(default: float32)')


def add_models(parser: Any) -> None:
    """`-m` of commands that caption images: a list of folders, or None for the pretrained model."""
    parser.add_argument('-m', '--model', action='append', metavar='MODEL',
                        help='model directory that train wrote; several, each with its own -m, are an ensemble '
                        '(default: the pretrained model, trained on Flickr8k)')


def add_encoder_weights(parser: Any) -> None:
    parser.add_argument('-i', '--encoder-weights', metavar='WEIGHTS',
                        help="the image encoder's weights: .caffemodel, .npz, .pth, .safetensors, or an encoder as "
                        '.onnx (default: those in the model directory, or where Chainer keeps its models)')


class _Encoders(list):
    """The choices of `--encoder`: a name of the table, or an ONNX file."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or is_onnx_file(name)


#: Arguments of `add_argument` for `--encoder`.
ENCODER: dict[str, Any] = {'choices': _Encoders([*sorted(ENCODERS), 'FILE.onnx']), 'metavar': 'ENCODER'}


def declared_provenance(args: argparse.Namespace) -> dict[str, str] | None:
    """The provenance that `--encoder` and `--preprocessing` declare; None without them."""
    if is_onnx_file(args.encoder):
        from chainer_caption.features.extractor import Extractor
        extractor = Extractor.load(args.encoder, args.preprocessing, say=say)
        return {'encoder': extractor.encoder, 'preprocessing': extractor.preprocessing}
    if (args.encoder is None) != (args.preprocessing is None):
        raise InputError('--encoder and --preprocessing belong together: name both or neither')
    return {'encoder': args.encoder, 'preprocessing': args.preprocessing} if args.encoder else None


def add_provenance(parser: Any, of: str) -> None:
    add = parser.add_argument
    add('--encoder', **ENCODER, help=f'the image encoder that {of}: %(choices)s')
    add('--preprocessing', choices=sorted(PREPROCESSINGS), metavar='P',
        help='how the images were preprocessed for it: %(choices)s')


# The options of all searches, of sampling, and of beam search.
LIMITS = 'top', 'max_length', 'min_length', 'no_repeat_ngram', 'allow_unk'
OF_SAMPLES = 'temperature', 'top_k', 'top_p', 'seed'
OF_BEAMS = 'beam_width', 'beam_widths', 'length_normalization', 'beam_groups', 'diversity_penalty'


def add_beam(parser: Any) -> None:
    """The options of one beam search, except `LIMITS`."""
    add = parser.add_argument
    add('--beam-width', type=int, metavar='N',
        help="hypotheses to keep; 1 is greedy search (default: the model directory's, else 20)")
    add('--top', type=int, metavar='N', help='captions an image (default: 5, or the beam width if less)')
    add('--length-normalization', type=float, metavar='A', help='compare captions by log-probability / tokens ** A '
        "(default: the model directory's, else 0: not normalized)")


def add_limits(parser: Any) -> None:
    add = parser.add_argument
    add('--max-length', type=int, metavar='N', help='words in a caption at most (default: 60)')
    add('--min-length', type=int, metavar='N', help='words in a caption at least (default: 0)')
    add('--no-repeat-ngram', type=int, metavar='N',
        help='repeat no sequence of N words within a caption (default: 0, repeats are allowed)')
    add('--allow-unk', action='store_true', default=None, help='allow <UNK> in captions')


def add_ways(parser: Any) -> None:
    add = parser.add_argument
    add('--beam-groups', type=int, metavar='G',
        help="diverse beam search: split the beam into G groups that avoid each other's words")
    add('--diversity-penalty', type=float, metavar='D', help='nats subtracted from a word for each hypothesis of an '
        'earlier group that has it at the same position (default: 0.5)')
    add('--sample', action='store_true', default=None,
        help='sample captions from the model instead of searching for the most likely ones')
    add('--temperature', type=float, metavar='T',
        help='divide the scores by T before sampling: below 1 likely words are sampled more often (default: 1)')
    add('--top-k', type=int, metavar='K', help='sample among the K most likely words')
    add('--top-p', type=float, metavar='P',
        help='sample among the most likely words whose probabilities add up to P (nucleus sampling)')
    add('--seed', type=int, metavar='S',
        help='random seed of sampling; together with the image it determines the captions (default: 0)')


def check_ways(args: argparse.Namespace) -> None:
    """Refuses options of beam search and sampling that contradict each other."""
    why = 'is for beam search, not for --sample' if args.sample else 'belongs to --sample'
    for name in OF_BEAMS if args.sample else OF_SAMPLES:
        if getattr(args, name, None) is not None:
            raise InputError(f'--{name.replace("_", "-")} {why}')
    if args.diversity_penalty is not None and args.beam_groups is None:
        raise InputError('--diversity-penalty belongs to --beam-groups')


def search_of(args: argparse.Namespace, captioner: 'Captioner', **beam: Any) -> Any:
    """The search that the options name; `beam` holds the options of `BeamSearch` that are not in `LIMITS`."""
    if args.sample:
        from chainer_caption.decoding import Sampling
        return Sampling(**options(args, *LIMITS, *OF_SAMPLES))
    return captioner.search(**options(args, *LIMITS, 'beam_groups', 'diversity_penalty'), **beam)


def options(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given, among `names`: name to value."""
    return given(**{name: getattr(args, name) for name in names})


def beam_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_beam` that are not in `LIMITS`, by the names of `BeamSearch`."""
    return given(width=args.beam_width, length_normalization=args.length_normalization)


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def model_facts(captioner: 'Captioner', search: Any) -> dict[str, str]:
    """The model and the search that make captions, in the words that pages show."""
    known = captioner.bundle.provenance or {'encoder': 'unknown', 'preprocessing': 'unknown'}
    if captioner.extractor is not None:
        known = {key: getattr(captioner.extractor, key) for key in known}
    return {'Model': ' + '.join(map(name_of, captioner.names)), 'Encoder': known['encoder'],
            'Preprocessing': known['preprocessing'], 'Search': str(search)}


def name_of(path: str) -> str:
    """The last part of a path, also of `.`."""
    return os.path.basename(os.path.abspath(path))


def whole_numbers(text: str) -> list[int]:
    """The type of an option that takes several whole numbers with commas between them."""
    try:
        return [int(number) for number in text.split(',')]
    except ValueError as e:
        raise argparse.ArgumentTypeError(f'{text!r} is no list of whole numbers, such as 1,3,5') from e
