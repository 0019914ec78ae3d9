"""extract_features: from a folder of pictures to a release."""
import sys

from tqdm import tqdm

from chainer_caption.cli.common import add_device, device, failure, say
from chainer_caption.data.captions import UNITS
from chainer_caption.errors import InputError
from chainer_caption.features.networks import NETWORKS
from chainer_caption.features.pictures import MAX_PIXELS
from chainer_caption.features.profiles import PROFILES

DESCRIPTION = 'Turn a folder of pictures into a release: features and, with --captions, all that training needs.'
EXAMPLES = '''\
  extract_features.py holiday/ -i VGG_ILSVRC_19_layers.caffemodel -o features/holiday
  extract_features.py pictures/ -o features/mine --captions captions.csv       columns: filename,caption[,split]
  extract_features.py val2014/ -o features/coco --captions captions_val2014.json --dtype float16 -g 0
  extract_features.py coco/ -o features/coco --captions dataset_coco.json      Karpathy's splits of train2014, val2014
  extract_features.py holiday/ -o features/holiday --captions holiday/         holiday/dog.txt beside holiday/dog.jpg
  extract_features.py val2014/ -o features/stair --captions stair_captions_v1.2_val.json --unit characters
  extract_features.py drawings/ -o features/drawings --network demo
  extract_features.py pictures/ -o features/finer -m finer       by the network that was fine-tuned with that model

Stopped and started again with the same command it goes on where it was. Pictures that cannot be read are named and
left out, and the exit status is 1.'''


def add_arguments(parser):
    parser.add_argument('folder', metavar='FOLDER', help='pictures; it is walked, in sorted order')
    parser.add_argument('-i', '--image-weights', metavar='WEIGHTS',
                        help="the network's weights (.caffemodel, .npz, .pth, .safetensors)")
    parser.add_argument('-m', '--model', metavar='MODEL',
                        help='a model directory: extract what it learned from, by a network of its own if it has one')
    parser.add_argument('-o', '--output', required=True, metavar='RELEASE',
                        help='folder to write: feats.npy, feats.npy.json and dataset.json')
    parser.add_argument('--network', choices=sorted(NETWORKS), help='(vgg19)')
    parser.add_argument('--profile', choices=sorted(PROFILES),
                        help="how pictures are prepared (what the weights want; the network's own)")
    parser.add_argument('--captions', metavar='FILE|FOLDER',
                        help="CSV with the columns filename, caption and perhaps split, COCO's annotations, Karpathy's "
                             "dataset_*.json, a metadata.jsonl, Flickr's *.token.txt, or a folder with a .txt for each "
                             'picture; may be added or changed when the features are there already')
    parser.add_argument('--unit', choices=UNITS,
                        help='what captions are cut into: words; characters, for languages without spaces; or '
                             'katakana, the characters of a Japanese reading (words)')
    parser.add_argument('--split-seed', type=int, default=0, metavar='N',
                        help='of the split, where the captions give none (%(default)s)')
    parser.add_argument('--val', type=float, default=0.1, metavar='PART', help='part for validation (%(default)s)')
    parser.add_argument('--test', type=float, default=0.1, metavar='PART', help='part for testing (%(default)s)')
    parser.add_argument('--dtype', choices=('float32', 'float16'), default='float32',
                        help='of the numbers; float16 takes half the room (%(default)s)')
    add_device(parser)
    parser.add_argument('--no-exif', dest='exif', action='store_false',
                        help='take pictures as they are stored, whatever their EXIF orientation says')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
                        help='refuse pictures of more (%(default)s)')


def run(args):
    from chainer_caption.data.store import Splitting, extract_features
    from chainer_caption.features.extractor import Extractor
    splitting = Splitting(args.split_seed, args.val, args.test)
    if args.captions is None and splitting != Splitting():
        raise InputError('--split-seed, --val and --test belong to --captions')
    if args.captions is None and args.unit is not None:
        raise InputError('--unit belongs to --captions')
    extractor = Extractor.load(*_network(args), device(args.gpu), args.exif, args.max_pixels)
    with tqdm(unit=' pictures', disable=None) as bar:
        def progress(done, total):
            if bar.total is None:
                bar.total, bar.initial, bar.n = total, done, done
            bar.update(done - bar.n)

        def report(filename, reason):
            tqdm.write(failure(filename, reason), file=sys.stderr)

        failed = extract_features(args.folder, args.output, extractor, args.captions, args.dtype, splitting,
                                  progress, report, say, args.unit or 'words')
    return 1 if failed else 0


def _network(args):
    """The network, the profile and the weights that the options name, as `Extractor.load` takes them."""
    if args.model is None:
        return args.network or 'vgg19', args.profile, args.image_weights
    if args.network or args.profile:
        raise InputError('-m says which network and profile: leave out --network and --profile')
    from chainer_caption.models.bundle import Bundle
    model = Bundle.load(args.model)
    if model.origin is None:
        raise InputError(f'{args.model}: does not record what made its features; name --network and --profile in place '
                         'of -m')
    return model.origin['network'], model.origin['profile'], args.image_weights or model.network_path
