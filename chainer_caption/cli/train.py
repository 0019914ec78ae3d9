"""train: from a dataset to a model directory."""
import argparse
import dataclasses
import inspect
import sys

from chainer_caption.cli.common import add_device, add_provenance, declared_provenance, device, say
from chainer_caption.cli.stopping import Stopping
from chainer_caption.data import Dataset, combine
from chainer_caption.errors import InputError
from chainer_caption.parallel import Processes
from chainer_caption.training.settings import GROUPS, FineTuningSettings, Rule, Settings, rules

DESCRIPTION = 'Train a captioner on a dataset (dataset.json and vgg_feats.mat).'
EXAMPLES = '''\
  chainer-caption train features/flickr8k -o model        30 epochs on the CPU; the best on val is kept
  chainer-caption train features/coco -o model -g 0       on the first GPU
  chainer-caption train features/coco -o model -g 0 --resume                  go on where it was stopped
  mpiexec -n 4 chainer-caption train features/coco -o model -g 0              on four GPUs
  chainer-caption train features/coco -o model --keep-best cider --patience 5     stop when captions get no better
  chainer-caption train features/mine -o model --architecture merge --text captions.txt.gz     after text alone
  chainer-caption train features/coco features/mine -o model --dataset-weights 1,10     two datasets as one
  chainer-caption train features/mine -o mine -m pretrained --extend-vocabulary    go on from a model, with new words
  chainer-caption train features/coco -o scst -m model --objective self-critical --epochs 5     then with SCST
  chainer-caption train features/coco -o fine -m model --finetune conv5_1 --images train2014/   and the encoder, too
  chainer-caption train features/stair -o model --architecture encoder_decoder --max-positions 60
  chainer-caption train features/mine -o model --objective mine --import my_objective     an objective of your own
  chainer-caption train -s dataset.json -i vgg_feats.mat -o model
  chainer-caption train features/flickr8k -o model -m weights.npz --epochs 0   a model directory from bare weights'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('dataset', nargs='*', metavar='DATASET', help='folder with dataset.json and vgg_feats.mat; '
                        'several are trained on as one')
    parser.add_argument('-s', '--sentences', metavar='FILE', help='dataset.json, in place of the one in DATASET')
    parser.add_argument('-i', '--features', metavar='FILE', help='feature matrix, in place of the one in DATASET')
    parser.add_argument('-o', '--output', required=True, metavar='MODEL', help='model directory to write')
    parser.add_argument('-m', '--model', metavar='MODEL', help='model directory or weights.npz to start from; '
                        'pretrained: the pretrained model')
    parser.add_argument('--resume', action='store_true', help='go on with the training of MODEL')
    parser.add_argument('--overwrite', action='store_true', help='replace MODEL if it is there')
    add_device(parser)
    add_provenance(parser, 'made the features, if the dataset does not record it')
    for group in GROUPS:
        options = parser.add_argument_group(inspect.getdoc(group))
        for field in dataclasses.fields(group):
            _add_option(options, field.name, field.default, rules(group)[field.name])
        if group is FineTuningSettings:
            options.add_argument('--images', metavar='FOLDER', help="the dataset's images, also in folders below it")
            options.add_argument('--encoder-weights', metavar='WEIGHTS', help='initial weights of the encoder '
                                 "(default: those of MODEL, or of Chainer's model folder)")


def _add_option(options: argparse._ArgumentGroup, name: str, default: object, rule: Rule) -> None:
    names = [f'--{name.replace("_", "-")}', *rule.options]
    if rule.kind is bool:
        options.add_argument(*names, dest=name, action='store_true', help=rule.help)
        return
    # Settings checks the choices: further ones may be registered.
    metavar = rule.metavar or '{' + ','.join([*rule.choices, *['…'] * rule.registered]) + '}'
    options.add_argument(*names, dest=name, type=rule.kind, default=default, metavar=metavar,
                         help=f'{rule.help} (default: {rule.unset if default is None else default})')


def run(args: argparse.Namespace) -> int:
    if args.resume and args.overwrite:
        raise InputError('--resume and --overwrite exclude each other')
    if len(args.dataset) > 1 and (args.sentences or args.features):
        raise InputError('-s and -i are files of one dataset; name several as folders')
    for name in ('images', 'encoder_weights'):
        if args.finetune is None and getattr(args, name) is not None:
            raise InputError(f'--{name.replace("_", "-")} belongs to --finetune')
    provenance = declared_provenance(args)
    # Imported here, so that -h and wrong calls are answered at once.
    from chainer_caption.training.run import train
    settings = Settings(**{name: getattr(args, name) for name in rules()})
    processes = Processes.started()
    where = device(args.gpu, processes)
    dataset = processes.one_after_another(lambda: combine([
        Dataset(folder, args.sentences, args.features) for folder in args.dataset or [None]]))
    with Stopping() as stop:
        train(dataset, args.output, settings, where, args.resume, args.overwrite, args.model, provenance,
              progress=sys.stderr if sys.stderr.isatty() else None, say=say if processes.first else lambda line: None,
              stop=stop, processes=processes, images=args.images, encoder_weights=args.encoder_weights)
    return stop.status
