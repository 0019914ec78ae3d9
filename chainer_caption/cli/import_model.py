"""import_model: another program's trained model into a model directory."""
import pathlib

from chainer_caption.cli.common import add_provenance, say
from chainer_caption.errors import InputError

DESCRIPTION = "Make a model directory of another program's trained model; nothing in its files is run."
EXAMPLES = '''\
  import_model.py caption_0100.model dataset.pkl -o model                          dsanno/chainer-image-caption
  import_model.py model_checkpoint_coco.p -o model                                 karpathy/neuraltalk
  import_model.py model-best.pth infos_fc-best.pkl -o model                        ruotianluo/ImageCaptioning.pytorch
  import_model.py model_checkpoint_coco.p -o model --encoder vgg16 --preprocessing karpathy'''


def add_arguments(parser):
    parser.add_argument('checkpoint', nargs='+', metavar='CHECKPOINT', help='its files, in any order')
    parser.add_argument('-o', '--output', required=True, metavar='MODEL', help='model directory to write')
    parser.add_argument('--overwrite', action='store_true', help='replace MODEL if it is there')
    add_provenance(parser, 'made the features it learned from, if the checkpoint does not say it')


def run(args):
    if (args.encoder is None) != (args.preprocessing is None):
        raise InputError('--encoder and --preprocessing belong together: name both or neither')
    from chainer_caption.models.bundle import CONFIG, clear
    from chainer_caption.models.checkpoints import read_checkpoint
    from chainer_caption.training.extensions import WATCHED
    output = pathlib.Path(args.output)
    if (output / CONFIG).exists() and not args.overwrite:
        raise InputError(f'{output}: there is a model in it already; --overwrite replaces it')
    bundle = read_checkpoint(args.checkpoint,
                             {'encoder': args.encoder, 'preprocessing': args.preprocessing} if args.encoder else None)
    # Not before the checkpoint has been found sound.
    if output.is_dir():
        clear(output, WATCHED)
    bundle.save(output)
    provenance = '{encoder}/{preprocessing}'.format(**bundle.provenance) if bundle.provenance else 'unknown'
    say(f'{output}: a model of {bundle.training["imported_from"]}, {len(bundle.vocabulary):,} words, features of '
        f'{bundle.model.feature_size} numbers (made by: {provenance})')
    return 0
