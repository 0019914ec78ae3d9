"""train: from a dataset to a model directory."""
import dataclasses
import sys

from chainer_caption.cli.common import add_device, add_precision, add_provenance, device, say
from chainer_caption.cli.stopping import Stopping
from chainer_caption.data import Dataset
from chainer_caption.errors import InputError
from chainer_caption.parallel import Processes

DESCRIPTION = 'Train a captioner on a dataset (dataset.json and vgg_feats.mat).'
EXAMPLES = '''\
  train.py features/flickr8k -o model               30 epochs on the CPU, the best on val is kept
  train.py features/coco -o model -g 0              on the first GPU
  train.py features/coco -o model -g 0 --resume     go on where it was stopped
  mpiexec -n 4 .venv/bin/python scripts/train.py features/coco -o model -g 0      on four GPUs
  train.py features/coco -o model --keep-best cider --patience 5    stop when captions of val get no better
  train.py features/coco -o better -m model --objective self-critical --epochs 5     then captions that score well
  train.py features/coco -o finer -m model --finetune conv5_1 --images train2014/    and the encoder learns, too
  train.py features/stair -o model --architecture encoder_decoder --max-positions 60     a word for each place, at once
  train.py -s dataset.json -i vgg_feats.mat -o model
  train.py features/flickr8k -o model -m weights.npz --epochs 0     make a model directory of bare weights'''


def add_arguments(parser):
    parser.add_argument('dataset', nargs='?', metavar='DATASET', help='folder with dataset.json and vgg_feats.mat')
    parser.add_argument('-s', '--sentences', metavar='FILE', help='dataset.json, in place of the one in DATASET')
    parser.add_argument('-i', '--features', metavar='FILE', help='feature matrix, in place of the one in DATASET')
    parser.add_argument('-o', '--output', required=True, metavar='MODEL', help='model directory to write')
    parser.add_argument('-m', '--model', metavar='MODEL', help='model directory or weights.npz to start from')
    add_device(parser)
    add_precision(parser)
    parser.add_argument('--epochs', '--iter', type=int, default=30, metavar='N', help='(default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=128, metavar='N', help='captions an update (%(default)s)')
    parser.add_argument('--architecture', metavar='NAME',
                        help='show_and_tell; encoder_decoder, whose words have places of their own and know nothing of '
                             'each other; or merge, whose LSTM reads words alone (show_and_tell)')
    parser.add_argument('--hidden', type=int, metavar='N',
                        help='width of the LSTM and the embeddings (512, of encoder_decoder 768)')
    parser.add_argument('--max-positions', type=int, metavar='T',
                        help='of encoder_decoder: words in a caption at most, </S> among them (50)')
    parser.add_argument('--dropout', type=float, default=0.5, metavar='P', help='(%(default)s)')
    parser.add_argument('--min-count', type=int, default=5, metavar='N',
                        help='words seen at least so often are in the vocabulary (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='(%(default)s)')
    parser.add_argument('--patience', type=int, metavar='K',
                        help='stop after K epochs without a better figure on val')
    parser.add_argument('--keep-best', metavar='FIGURE', help='the figure on val by which the best epoch is kept: '
                        'loss or cider (loss for words, cider for self-critical)')
    parser.add_argument('--score-every', type=int, default=1, metavar='N',
                        help="score captions of val's images every N epochs, 0 for never (%(default)s)")
    parser.add_argument('--tensorboard', action='store_true', help="write TensorBoard's events, into MODEL/events")
    parser.add_argument('--snapshot-every', type=int, metavar='N',
                        help='updates between two snapshots (the end of each epoch, and every ten minutes)')
    parser.add_argument('--keep-snapshots', type=int, default=2, metavar='K', help='how many to keep (%(default)s)')
    objective = parser.add_argument_group('what it aims at')
    objective.add_argument('--objective', default='cross-entropy', metavar='NAME',
                           help='words: what people wrote; self-critical: captions of its own that score well, from '
                                'a model (-m) that has learned words (%(default)s)')
    objective.add_argument('--baseline', default='others', metavar='NAME',
                           help="what a drawn caption is compared with: others, the image's other samples, or greedy "
                                '(%(default)s)')
    objective.add_argument('--samples', type=int, default=5, metavar='N', help='drawn for an image (%(default)s)')
    objective.add_argument('--xe-weight', type=float, default=1.0, metavar='W',
                           help="adds W times the words' loss, for captions that vary more (%(default)s)")
    learning = parser.add_argument_group('how it learns')
    learning.add_argument('--learning-rate', type=float, metavar='R', help='(0.001 for words, 2e-4 for self-critical)')
    learning.add_argument('--average', type=int, metavar='K',
                          help='validate, score and keep the mean of the weights over about K updates')
    seeing = parser.add_argument_group('fine-tuning of the image encoder')
    seeing.add_argument('--finetune', metavar='LAYER',
                        help='this layer of the encoder and all above it learn, too, beginning with a model (-m) that '
                             'has learned words; all: the whole encoder')
    seeing.add_argument('--images', metavar='FOLDER', help="the dataset's images, in whatever folders below it")
    seeing.add_argument('--encoder-weights', metavar='WEIGHTS',
                        help="what the encoder begins with (that of MODEL; where Chainer keeps its models)")
    seeing.add_argument('--encoder-learning-rate', type=float, metavar='R', help='(a tenth of the other)')
    seeing.add_argument('--augment', action='store_true', help='cut and mirror the images at random')
    parser.add_argument('--resume', action='store_true', help='go on with the training of MODEL')
    parser.add_argument('--overwrite', action='store_true', help='replace MODEL if it is there')
    add_provenance(parser, 'made the features, if the dataset does not record it')


def run(args):
    if args.resume and args.overwrite:
        raise InputError('--resume and --overwrite exclude each other')
    if (args.encoder is None) != (args.preprocessing is None):
        raise InputError('--encoder and --preprocessing belong together: name both or neither')
    for name in ('images', 'encoder_weights'):
        if args.finetune is None and getattr(args, name) is not None:
            raise InputError(f'--{name.replace("_", "-")} belongs to --finetune')
    # Only now, so that -h and wrong calls are answered at once.
    from chainer_caption.training import Settings, train
    settings = Settings(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)})
    processes = Processes.started()
    where = device(args.gpu, processes)
    dataset = processes.one_after_another(lambda: Dataset(args.dataset, args.sentences, args.features))
    provenance = {'encoder': args.encoder, 'preprocessing': args.preprocessing} if args.encoder else None
    with Stopping() as stop:
        train(dataset, args.output, settings, where, args.resume, args.overwrite, args.model, provenance,
              progress=sys.stderr if sys.stderr.isatty() else None, say=say if processes.first else lambda line: None,
              stop=stop, processes=processes, images=args.images, encoder_weights=args.encoder_weights)
    return stop.status
