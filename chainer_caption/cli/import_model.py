"""import-model: another program's trained model into a model directory."""
import argparse
import pathlib

from chainer_caption.cli.common import add_provenance, declared_provenance, say
from chainer_caption.errors import InputError

EXAMPLES = '''\
  chainer-caption import-model caption_0100.model dataset.pkl -o model               dsanno/chainer-image-caption
  chainer-caption import-model model_checkpoint_coco.p -o model                      karpathy/neuraltalk
  chainer-caption import-model model-best.pth infos_fc-best.pkl -o model             ruotianluo/ImageCaptioning.pytorch
  chainer-caption import-model model_checkpoint_coco.p -o model --encoder vgg16 --preprocessing karpathy

Pickled files are read without running any code in them.'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('checkpoint', nargs='+', metavar='CHECKPOINT', help="the trained model's files, in any order")
    add('-o', '--output', required=True, metavar='MODEL', help='model directory to write')
    add('--overwrite', action='store_true', help='replace MODEL if it exists')
    add_provenance(parser, 'made the features it was trained on, if the checkpoint does not record it')


def run(args: argparse.Namespace) -> int:
    given = declared_provenance(args)
    from chainer_caption.models.bundle import CONFIG, clear
    from chainer_caption.models.checkpoints import read_checkpoint
    from chainer_caption.training.extensions import WATCHED
    output = pathlib.Path(args.output)
    if (output / CONFIG).exists() and not args.overwrite:
        raise InputError(f'{output}: already holds a model; --overwrite replaces it')
    bundle = read_checkpoint(args.checkpoint, given)
    if output.is_dir():                                 # only after the checkpoint was read without errors
        clear(output, WATCHED)
    bundle.save(output)
    provenance = '{encoder}/{preprocessing}'.format(**bundle.provenance) if bundle.provenance else 'unknown'
    say(f'{output}: a model of {bundle.training["imported_from"]}, {len(bundle.vocabulary):,} words, features of '
        f'{bundle.model.feature_size} numbers (made by: {provenance})')
    return 0
