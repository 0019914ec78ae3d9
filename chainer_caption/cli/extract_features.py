"""extract_features: from a folder of images to a dataset."""
from chainer_caption.cli.common import add_device, device, say
from chainer_caption.cli.progress import Progress, show_failure
from chainer_caption.data.captions import TOKENIZERS
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.images import MAX_PIXELS
from chainer_caption.features.preprocessing import PREPROCESSINGS

DESCRIPTION = 'Turn a folder of images into a dataset: features and, with --captions, all that training needs.'
EXAMPLES = '''\
  extract_features.py holiday/ -i VGG_ILSVRC_19_layers.caffemodel -o features/holiday
  extract_features.py images/ -o features/mine --captions captions.csv       columns: filename,caption[,split]
  extract_features.py val2014/ -o features/coco --captions captions_val2014.json --dtype float16 -g 0
  extract_features.py coco/ -o features/coco --captions dataset_coco.json      Karpathy's splits of train2014, val2014
  extract_features.py holiday/ -o features/holiday --captions holiday/         holiday/dog.txt beside holiday/dog.jpg
  extract_features.py val2014/ -o features/stair --captions stair_captions_v1.2_val.json --tokenizer characters
  extract_features.py drawings/ -o features/drawings --encoder demo
  extract_features.py images/ -o features/finer -m finer       by the encoder that was fine-tuned with that model

Stopped and started again with the same command it goes on where it was. Images that cannot be read are named and
left out, and the exit status is 1.'''


def add_arguments(parser):
    parser.add_argument('folder', metavar='FOLDER', help='images; it is walked, in sorted order')
    parser.add_argument('-i', '--encoder-weights', metavar='WEIGHTS',
                        help="the encoder's weights (.caffemodel, .npz, .pth, .safetensors)")
    parser.add_argument('-m', '--model', metavar='MODEL',
                        help='a model directory: extract what it learned from, by an encoder of its own if it has one')
    parser.add_argument('-o', '--output', required=True, metavar='DATASET',
                        help='folder to write: feats.npy, feats.npy.json and dataset.json')
    parser.add_argument('--encoder', choices=sorted(ENCODERS), help='(vgg19)')
    parser.add_argument('--preprocessing', choices=sorted(PREPROCESSINGS),
                        help="how images are prepared (what the weights want; the encoder's own)")
    parser.add_argument('--captions', metavar='FILE|FOLDER',
                        help="CSV with the columns filename, caption and perhaps split, COCO's annotations, Karpathy's "
                             "dataset_*.json, a metadata.jsonl, Flickr's *.token.txt, or a folder with a .txt for each "
                             'image; may be added or changed when the features are there already')
    parser.add_argument('--tokenizer', choices=TOKENIZERS,
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
                        help='take images as they are stored, whatever their EXIF orientation says')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
                        help='refuse images of more (%(default)s)')


def run(args):
    from chainer_caption.data.building import Splitting, extract_features
    from chainer_caption.features.extractor import Extractor
    splitting = Splitting(args.split_seed, args.val, args.test)
    if args.captions is None and splitting != Splitting():
        raise InputError('--split-seed, --val and --test belong to --captions')
    if args.captions is None and args.tokenizer is not None:
        raise InputError('--tokenizer belongs to --captions')
    extractor = Extractor.load(*_encoder(args), device(args.gpu), args.exif, args.max_pixels)
    with Progress('extract-features') as bar:
        failed = extract_features(args.folder, args.output, extractor, args.captions, args.dtype, splitting,
                                  bar.at, show_failure, say, args.tokenizer or 'words')
    return 1 if failed else 0


def _encoder(args):
    """The encoder, the preprocessing and the weights that the options name, as `Extractor.load` takes them."""
    if args.model is None:
        return args.encoder or 'vgg19', args.preprocessing, args.encoder_weights
    if args.encoder or args.preprocessing:
        raise InputError('-m says which encoder and preprocessing: leave out --encoder and --preprocessing')
    from chainer_caption.models.bundle import Bundle
    model = Bundle.load(args.model)
    if model.provenance is None:
        raise InputError(f'{args.model}: does not record what made its features; name --encoder and --preprocessing '
                         f'in place '
                         'of -m')
    return model.provenance['encoder'], model.provenance['preprocessing'], args.encoder_weights or model.encoder_path
