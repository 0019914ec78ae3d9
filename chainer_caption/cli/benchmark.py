"""benchmark: how fast this machine trains, decodes and extracts features."""
import argparse
import json

from chainer_caption.cli import common
from chainer_caption.data import Dataset
from chainer_caption.errors import InputError
from chainer_caption.parallel import Processes

EXAMPLES = '''\
  chainer-caption benchmark train features/flickr8k --json
  chainer-caption benchmark train features/coco -g 0 --batch-size 512 --updates 500
  chainer-caption benchmark decode features/flickr8k -m model --beam-width 5
  chainer-caption benchmark extract --encoder efficientnet_lite0 --batch-size 32'''

_DATASET = 'folder with dataset.json and a feature matrix'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest='kind', required=True, metavar='train|decode|extract')
    train = kinds.add_parser('train', help='captions and tokens a second')
    add = train.add_argument
    add('dataset', metavar='DATASET', help=_DATASET)
    add('--updates', type=int, default=100, metavar='N', help='updates to time (default: %(default)s)')
    add('--batch-size', type=int, default=128, metavar='N', help='captions an update (default: %(default)s)')
    add('--architecture', metavar='NAME', help='as for train (default: show_and_tell)')
    add('--hidden', type=int, metavar='N', help="width of the LSTM and the embeddings (default: the architecture's)")
    add('--max-positions', type=int, metavar='T',
        help='positions of encoder_decoder: words and </S> in a caption at most (default: 50)')
    add('--min-count', type=int, default=5, metavar='N',
        help='words seen at least N times are in the vocabulary (default: %(default)s)')
    decode = kinds.add_parser('decode', help='images a second')
    decode.add_argument('dataset', metavar='DATASET', help=_DATASET)
    decode.add_argument('-m', '--model', required=True, metavar='MODEL', help='model directory that train wrote')
    decode.add_argument('--split', default='test', metavar='SPLIT',
                        help='split whose images are captioned (default: %(default)s)')
    decode.add_argument('--limit', type=int, metavar='N', help='caption the first N of them (default: all)')
    common.add_beam(decode)
    common.add_limits(decode)
    common.add_precision(train)
    common.add_precision(decode)
    extract = kinds.add_parser('extract', help='images a second through the image encoder')
    extract.add_argument('--encoder', default='vgg19', **common.ENCODER,
                         help='the image encoder, with random weights unless it is an ONNX file: %(choices)s '
                         '(default: %(default)s)')
    extract.add_argument('--batch-size', type=int, default=8, metavar='N', help='images a batch (default: %(default)s)')
    extract.add_argument('--repeats', type=int, default=5, metavar='N', help='batches to time (default: %(default)s)')
    common.add_encoder_precision(extract)
    for kind in (train, decode, extract):
        common.add_device(kind)
        kind.add_argument('--json', action='store_true', help='print one JSON object')


def run(args: argparse.Namespace) -> int:
    from chainer_caption import benchmarks
    from chainer_caption.functions.matmul import using_precision
    from chainer_caption.training.settings import Settings
    processes = Processes.started()
    where = common.device(args.gpu, processes)
    tell = common.say if processes.first else lambda line: None
    if processes.size > 1 and args.kind != 'train':
        raise InputError(f'{args.kind} is measured in one process; start it without mpiexec')
    if args.kind == 'train':
        settings = Settings(batch_size=args.batch_size, architecture=args.architecture, hidden=args.hidden,
                            max_positions=args.max_positions, min_count=args.min_count, precision=args.precision)
        dataset = processes.one_after_another(lambda: Dataset(args.dataset))
        with using_precision(settings.precision, where, tell):
            figures = benchmarks.benchmark_training(dataset, settings, where, args.updates, processes)
    elif args.kind == 'decode':
        with using_precision(args.precision, where, tell):
            search = {**common.beam_options(args), **common.options(args, *common.LIMITS)}
            figures = benchmarks.benchmark_decoding(Dataset(args.dataset), args.model, where, args.split, args.limit,
                                                    search)
    else:
        figures = benchmarks.benchmark_extraction(args.encoder, where, args.batch_size, args.repeats,
                                                  args.encoder_precision or 'float32', tell)
    if processes.first:
        print(json.dumps(figures) if args.json else '\n'.join(f'{name:<16} {value}' for name, value in figures.items()))
    return 0
