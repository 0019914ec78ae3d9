"""check_features: which encoder and preprocessing made a dataset's feature matrix?"""
from chainer_caption.cli.common import add_device, device, say
from chainer_caption.data import Dataset
from chainer_caption.errors import InputError, printable
from chainer_caption.features.encoders import ENCODERS

DESCRIPTION = "Find out which encoder and preprocessing made a dataset's features, from a few of its images."
EXAMPLES = '''\
  check_features.py features/flickr8k Flicker8k_Dataset/ -i VGG_ILSVRC_16_layers.caffemodel
  check_features.py features/coco val2014/ -i VGG_ILSVRC_16_layers.caffemodel -i VGG_ILSVRC_19_layers.caffemodel
  check_features.py features/drawings drawings/ --encoder demo
  check_features.py features/flickr8k Flicker8k_Dataset/ -i VGG_ILSVRC_16_layers.caffemodel --write

The images are made into features again, in every way that is known here, and compared with the matrix by their mean
cosine similarity. The exit status is 0 if one way stands out as the one that made it, and 1 if none does.'''


def add_arguments(parser):
    parser.add_argument('dataset', metavar='DATASET', help='folder with dataset.json and a feature matrix')
    parser.add_argument('folder', metavar='FOLDER', help='where images of it are, below it in any order')
    parser.add_argument('-i', '--encoder-weights', action='append', default=[], metavar='WEIGHTS',
                        help="an encoder's weights; once for each encoder to try (by default all that are where "
                             "Chainer "
                             'keeps its models)')
    parser.add_argument('--encoder', action='append', default=[], choices=sorted(ENCODERS),
                        help='whose weights these are, once for each -i, if it is not to be found out; without -i, '
                             'which encoders to try')
    parser.add_argument('--limit', type=int, default=16, metavar='N', help='compare so many at most (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the choice of images (%(default)s)')
    parser.add_argument('--no-exif', dest='exif', action='store_false',
                        help='take images as they are stored, whatever their EXIF orientation says')
    parser.add_argument('--write', action='store_true',
                        help="keep the verdict: writes the encoder and the preprocessing into '<matrix>.json' beside "
                             "the "
                             'matrix, the only thing that is ever written into a dataset')
    add_device(parser)


def run(args):
    if args.limit < 1 or args.seed < 0:
        raise InputError('--limit is at least 1, and --seed at least 0')
    from chainer_caption.data import record_provenance
    from chainer_caption.features.check import check_features, find_extractors, sample_images
    dataset = Dataset(args.dataset)
    places, paths = sample_images(dataset.captions.filenames, args.folder, args.limit, args.seed)
    extractors = find_extractors(args.encoder_weights, args.encoder, device(args.gpu), args.exif, say)
    check = check_features(dataset.features[dataset.captions.image_ids[places]], paths, extractors)
    print(f'{"encoder":<10}{"preprocessing":<14}cosine similarity, mean of {check.images} images')
    for (encoder, preprocessing), similarity in sorted(check.similarities.items(), key=lambda item: -item[1]):
        print(f'{encoder:<10}{preprocessing:<14}{similarity:.5f}')
    if dataset.provenance:
        print(printable('recorded: {encoder}, {preprocessing}'.format(**dataset.provenance)))
    if check.verdict is None:
        print(f'verdict: none of these made {dataset.features_path}, or these images cannot tell')
        return 1
    encoder, preprocessing = check.verdict
    print(f'verdict: {encoder} with the preprocessing {preprocessing} made {dataset.features_path}')
    if args.write:
        record_provenance(dataset.features_path, encoder, preprocessing)
        print(f'recorded in {dataset.features_path}.json')
    return 0
