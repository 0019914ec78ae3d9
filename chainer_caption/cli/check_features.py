"""check_features: which network and profile made a release's feature matrix?"""
from chainer_caption.cli.common import add_device, device, say
from chainer_caption.data import Release
from chainer_caption.errors import InputError, printable
from chainer_caption.features.networks import NETWORKS

DESCRIPTION = "Find out which network and preprocessing made a release's features, from a few of its pictures."
EXAMPLES = '''\
  check_features.py features/flickr8k Flicker8k_Dataset/ -i VGG_ILSVRC_16_layers.caffemodel
  check_features.py features/coco val2014/ -i VGG_ILSVRC_16_layers.caffemodel -i VGG_ILSVRC_19_layers.caffemodel
  check_features.py features/drawings drawings/ --network demo
  check_features.py features/flickr8k Flicker8k_Dataset/ -i VGG_ILSVRC_16_layers.caffemodel --record

The pictures are made into features again, in every way that is known here, and compared with the matrix by their mean
cosine similarity. The exit status is 0 if one way stands out as the one that made it, and 1 if none does.'''


def add_arguments(parser):
    parser.add_argument('release', metavar='RELEASE', help='folder with dataset.json and a feature matrix')
    parser.add_argument('folder', metavar='FOLDER', help='where pictures of it are, below it in any order')
    parser.add_argument('-i', '--image-weights', action='append', default=[], metavar='WEIGHTS',
                        help="a network's weights; once for each network to try (by default all that are where Chainer "
                             'keeps its models)')
    parser.add_argument('--network', action='append', default=[], choices=sorted(NETWORKS),
                        help='whose weights these are, once for each -i, if it is not to be found out; without -i, '
                             'which networks to try')
    parser.add_argument('--pictures', type=int, default=16, metavar='N', help='compare so many at most (%(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the choice of pictures (%(default)s)')
    parser.add_argument('--no-exif', dest='exif', action='store_false',
                        help='take pictures as they are stored, whatever their EXIF orientation says')
    parser.add_argument('--record', action='store_true',
                        help="keep the verdict: writes the network and the profile into '<matrix>.json' beside the "
                             'matrix, the only thing that is ever written into a release')
    add_device(parser)


def run(args):
    if args.pictures < 1 or args.seed < 0:
        raise InputError('--pictures is at least 1, and --seed at least 0')
    from chainer_caption.data import record_origin
    from chainer_caption.features.check import check_features, find_extractors, sample_pictures
    release = Release(args.release)
    places, paths = sample_pictures(release.captions.filenames, args.folder, args.pictures, args.seed)
    extractors = find_extractors(args.image_weights, args.network, device(args.gpu), args.exif, say)
    check = check_features(release.features[release.captions.image_ids[places]], paths, extractors)
    print(f'{"network":<10}{"profile":<14}cosine similarity, mean of {check.pictures} pictures')
    for (network, profile), similarity in sorted(check.similarities.items(), key=lambda item: -item[1]):
        print(f'{network:<10}{profile:<14}{similarity:.5f}')
    if release.origin:
        print(printable('recorded: {network}, {profile}'.format(**release.origin)))
    if check.verdict is None:
        print(f'verdict: none of these made {release.features_path}, or these pictures cannot tell')
        return 1
    network, profile = check.verdict
    print(f'verdict: {network} with the profile {profile} made {release.features_path}')
    if args.record:
        record_origin(release.features_path, network, profile)
        print(f'recorded in {release.features_path}.json')
    return 0
