"""extract_features: builds a dataset from a folder of images."""
import argparse
from typing import Any

from chainer_caption.cli.common import ENCODER, add_device, add_encoder_precision, device, say
from chainer_caption.cli.progress import Progress, show_failure
from chainer_caption.data.captions import TOKENIZERS
from chainer_caption.errors import InputError
from chainer_caption.features.images import MAX_PIXELS
from chainer_caption.features.onnx_names import is_onnx, is_onnx_file
from chainer_caption.features.preprocessing import PREPROCESSINGS

DESCRIPTION = 'Build a dataset from a folder of images: features and, with --captions, all that training needs.'
EXAMPLES = '''\
  extract_features.py holiday/ -i VGG_ILSVRC_19_layers.caffemodel -o features/holiday
  extract_features.py images/ -o features/mine --captions captions.csv       columns: filename,caption[,split]
  extract_features.py val2014/ -o features/coco --captions captions_val2014.json --dtype float16 -g 0
  extract_features.py coco/ -o features/coco --captions dataset_coco.json      Karpathy's splits of train2014, val2014
  extract_features.py holiday/ -o features/holiday --captions holiday/         holiday/dog.txt beside holiday/dog.jpg
  extract_features.py val2014/ -o features/stair --captions stair_captions_v1.2_val.json --tokenizer characters
  extract_features.py drawings/ -o features/drawings --encoder demo
  extract_features.py images/ -o features/finer -m finer       with that model's fine-tuned encoder
  extract_features.py images/ -o features/mine --encoder resnet50.onnx       any image network

captions files are known by their content: CSV or another table with columns for the image (filename, image, ...), its
captions (caption, text, sentence, caption_0, ...) and perhaps the split; JSON and JSON lines with such fields; COCO's
annotations; Karpathy's dataset_*.json; Flickr's *.token.txt; what generate.py writes; a .txt for each image.

The same command resumes a run that was stopped, and computes only what is new or has changed in a finished dataset.
Images that cannot be read are named and left out, and the exit status is 1.'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', metavar='FOLDER', help='folder with images, searched recursively')
    parser.add_argument('-i', '--encoder-weights', metavar='WEIGHTS',
                        help="the encoder's weights (.caffemodel, .npz, .pth, .safetensors), or an encoder as .onnx")
    parser.add_argument('-m', '--model', metavar='MODEL',
                        help='a model directory: use its encoder, preprocessing and fine-tuned weights')
    parser.add_argument('-o', '--output', required=True, metavar='DATASET',
                        help='folder to write: feats.npy, feats.npy.json and dataset.json')
    parser.add_argument('--encoder', **ENCODER, help='image encoder that computes the features: %(choices)s (default: '
                        "vgg19, or the one of -m's model)")
    parser.add_argument('--encoder-output', metavar='NAME', help='output of the ONNX file that gives the features '
                        '(default: the one that FILE.json names, else the only one that can)')
    parser.add_argument('--grid', action='store_true', help='write grids.npy, the features of each location, in place '
                        'of their mean; needs an ONNX file as encoder')
    parser.add_argument('--preprocessing', choices=sorted(PREPROCESSINGS),
                        help="how images are prepared (default: as the weights need it, else the encoder's own)")
    parser.add_argument('--captions', metavar='FILE|FOLDER',
                        help='captions of the images, see below; may be added or changed later')
    parser.add_argument('--tokenizer', choices=TOKENIZERS,
                        help='tokens of captions: words, the default; characters, for languages without spaces; or '
                             'katakana, the characters of a Japanese reading')
    parser.add_argument('--split-seed', type=int, default=0, metavar='N',
                        help='random seed of the split if the captions give none (default: %(default)s)')
    for name, purpose in ('val', 'validation'), ('test', 'testing'):
        parser.add_argument(f'--{name}', type=float, default=0.1, metavar='FRACTION',
                            help=f'fraction for {purpose} if the captions give no split (default: %(default)s)')
    parser.add_argument('--dtype', choices=('float32', 'float16'), help='data type of the features; float16 takes half '
                        'the space (default: float32, or of grids float16)')
    add_device(parser)
    add_encoder_precision(parser)
    parser.add_argument('--no-exif', dest='exif', action='store_false',
                        help='take images as they are stored, whatever their EXIF orientation says')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
                        help='refuse images of more than N pixels (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    from chainer_caption.data.building import Splitting, extract_features
    from chainer_caption.features.extractor import Extractor
    splitting = Splitting(args.split_seed, args.val, args.test)
    if args.captions is None and splitting != Splitting():
        raise InputError('--split-seed, --val and --test belong to --captions')
    if args.captions is None and args.tokenizer is not None:
        raise InputError('--tokenizer belongs to --captions')
    extractor = Extractor.load(*_encoder(args), device(args.gpu), args.exif, args.max_pixels,
                               args.encoder_precision or 'float32', say, args.encoder_output, args.grid)
    dtype = args.dtype or ('float16' if args.grid else 'float32')
    with Progress('extract-features') as bar:
        failed = extract_features(args.folder, args.output, extractor, args.captions, dtype, splitting,
                                  bar.at, show_failure, say, args.tokenizer or 'words')
    return 1 if failed else 0


def _encoder(args: argparse.Namespace) -> tuple[str, str | None, Any]:
    """The encoder, the preprocessing and the weights that the options name, as `Extractor.load` takes them."""
    if args.encoder is None and is_onnx_file(args.encoder_weights):
        args.encoder, args.encoder_weights = args.encoder_weights, None
    if args.model is None:
        return args.encoder or 'vgg19', args.preprocessing, args.encoder_weights
    if (args.encoder and not is_onnx_file(args.encoder)) or args.preprocessing:
        raise InputError('-m says which encoder and preprocessing: leave out --encoder and --preprocessing')
    from chainer_caption.models.bundle import Bundle
    model = Bundle.load(args.model)
    if model.provenance is None:
        raise InputError(f'{args.model}: does not record what made its features; name --encoder and --preprocessing '
                         'instead of -m')
    encoder, preprocessing = model.provenance['encoder'], model.provenance['preprocessing']
    if args.encoder and not is_onnx(encoder):
        raise InputError(f'{args.model}: trained on features of the encoder {encoder}, not of an ONNX file; leave out '
                         f'{args.encoder}')
    return encoder, preprocessing, args.encoder or args.encoder_weights or model.encoder_path
