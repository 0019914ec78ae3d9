"""check-features: the encoder and preprocessing that made a dataset's features."""
import argparse

from chainer_caption.cli.common import ENCODER, add_device, add_encoder_precision, device, say
from chainer_caption.data import Dataset
from chainer_caption.errors import InputError, printable

EXAMPLES = '''\
  check_features.py features/flickr8k Flicker8k_Dataset/ -i VGG_ILSVRC_16_layers.caffemodel
  check_features.py features/coco val2014/ -i VGG_ILSVRC_16_layers.caffemodel -i VGG_ILSVRC_19_layers.caffemodel
  check_features.py features/drawings drawings/ --encoder demo
  check_features.py features/flickr8k Flicker8k_Dataset/ -i VGG_ILSVRC_16_layers.caffemodel --write

Features of the images are computed again by every known encoder and preprocessing, and compared with the stored
vectors, or with the mean of each stored grid, by their mean cosine similarity. The exit status is 0 if one pair is
identified, and 1 if none is.'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('dataset', metavar='DATASET', help='folder with dataset.json and a feature file')
    add('folder', metavar='FOLDER', help='folder of its images, in any order and subfolders')
    add('-i', '--encoder-weights', action='append', default=[], metavar='WEIGHTS', help="an encoder's weights; once "
        'for each encoder to try (default: all that are where Chainer keeps its models)')
    add('--encoder', action='append', default=[], **ENCODER,
        help='the encoder of each -i (default: found out); without -i, the encoders to try: %(choices)s')
    add('--limit', type=int, default=16, metavar='N', help='compare at most N images (%(default)s)')
    add('--seed', type=int, default=0, metavar='N', help='random seed of their choice (%(default)s)')
    add('--no-exif', dest='exif', action='store_false', help='ignore the EXIF orientation of images')
    add('--write', action='store_true', help="record the identified encoder and preprocessing in '<feature "
        "file>.json' beside the feature file; nothing else is written into a dataset")
    add_device(parser)
    add_encoder_precision(parser)


def run(args: argparse.Namespace) -> int:
    for name, least in (('limit', 1), ('seed', 0)):
        if getattr(args, name) < least:
            raise InputError.of(name, getattr(args, name), f'must be at least {least}')
    from chainer_caption.data import record_provenance
    from chainer_caption.features.check import check_features, find_extractors, sample_images
    dataset = Dataset(args.dataset)
    places, paths = sample_images(dataset.captions.filenames, args.folder, args.limit, args.seed)
    stored = dataset.grids if dataset.features is None else dataset.features
    assert stored is not None
    features = stored[dataset.captions.image_ids[places]]
    features = features if features.ndim == 2 else features.astype('float32').mean(axis=1)
    check = check_features(features, paths, find_extractors(args.encoder_weights, args.encoder, device(args.gpu),
                                                            args.exif, say, args.encoder_precision or 'float32'))
    rows = [(printable(encoder), printable(preprocessing), f'{similarity:.5f}') for (encoder, preprocessing), similarity
            in sorted(check.similarities.items(), key=lambda item: -item[1])]
    rows.insert(0, ('encoder', 'preprocessing', f'cosine similarity, mean of {check.images} images'))
    widths = [2 + max(len(row[column]) for row in rows) for column in (0, 1)]
    for encoder, preprocessing, similarity in rows:
        print(f'{encoder:<{widths[0]}}{preprocessing:<{widths[1]}}{similarity}')
    if dataset.provenance:
        print(printable('recorded: {encoder}, {preprocessing}'.format(**dataset.provenance)))
    path = dataset.features_path
    if check.verdict is None:
        print(f'verdict: none of these made {path}, or these images cannot tell')
        return 1
    encoder, preprocessing = check.verdict
    print(printable(f'verdict: {encoder} with the preprocessing {preprocessing} made {path}'))
    if args.write:
        record_provenance(path, encoder, preprocessing, stored.shape)
        print(f'recorded in {path}.json')
    return 0
