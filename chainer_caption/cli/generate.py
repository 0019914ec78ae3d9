"""generate: captions of images, or of a dataset's stored features."""
import codecs
import collections
import os
import sys

from tqdm import tqdm

from chainer_caption.cli.common import (
    add_beam,
    add_device,
    add_limits,
    add_models,
    add_precision,
    add_provenance,
    add_ways,
    beam_options,
    check_ways,
    device,
    failure,
    model_facts,
    name_of,
    say,
    search_of,
)
from chainer_caption.data import SPLITS, Dataset
from chainer_caption.errors import InputError
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import is_stream, unreadable, with_filename

DESCRIPTION = 'Caption images, folders of images, or the stored features of a dataset.'
EXAMPLES = '''\
  generate.py holiday/ -o captions.html                     what comes along, a gallery
  generate.py -m model -i VGG_ILSVRC_19_layers.caffemodel holiday/ dog.jpg
  generate.py -m model -l images.txt --top 1 -g 0
  generate.py -m model holiday/ -o captions.jsonl           or .csv, or .html: a gallery
  generate.py -m model --dataset features/coco --split test -o captions.jsonl
  generate.py -m model holiday/ --sample --top-p 0.9 --seed 1       captions drawn from the model
  generate.py -m model holiday/ --beam-groups 5 --diversity-penalty 0.5          captions that differ
  generate.py -m model -m model2 holiday/                           two models as one
  generate.py -m model holiday/ --sidecar txt               holiday/dog.txt beside holiday/dog.jpg; xmp: dog.jpg.xmp
  generate.py -m model holiday/ --format metadata -o holiday/metadata.jsonl'''

FORMATS = {'.txt': 'text', '.jsonl': 'jsonl', '.csv': 'csv', '.html': 'html', '.htm': 'html'}


def add_arguments(parser):
    from chainer_caption.features.images import MAX_PIXELS
    parser.add_argument('images', nargs='*', metavar='IMAGE|FOLDER', help='folders are walked, in sorted order')
    add_models(parser)
    parser.add_argument('-i', '--encoder-weights', metavar='WEIGHTS',
                        help="the image encoder's weights (.caffemodel, .npz, .pth, .safetensors)")
    parser.add_argument('-l', '--list', metavar='LIST', help='file with an image path on each line')
    parser.add_argument('-s', '--sentences', metavar='FILE', help='not needed: a model carries its vocabulary')
    parser.add_argument('--dataset', metavar='DATASET', help="caption a dataset's images by its stored features")
    parser.add_argument('--split', metavar='SPLIT', choices=SPLITS, help='which of them (default: test)')
    add_device(parser)
    add_precision(parser)
    add_beam(parser)
    add_limits(parser)
    add_ways(parser)
    add_provenance(parser, "made the model's features, if the model does not record it")
    parser.add_argument('--no-exif', dest='exif', action='store_false',
                        help='take images as they are stored, whatever their EXIF orientation says')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
                        help='refuse images of more (%(default)s)')
    parser.add_argument('--format', choices=('text', 'jsonl', 'csv', 'html', 'metadata'),
                        help='(default: by the name of OUT, else text); metadata is the metadata.jsonl of Hugging '
                             "Face's ImageFolder, to be written to the folder of the images")
    parser.add_argument('--scores', action='store_true', help='in text, say how probable each caption is')
    parser.add_argument('-o', '--output', metavar='OUT',
                        help='file to write (default: standard output); until all is done, what is done stands in '
                             'OUT.part, and the same command goes on from there if it was stopped')
    parser.add_argument('--sidecar', metavar='SUFFIX',
                        help="in place of OUT: write each image's best caption beside it, as photo.txt for txt or "
                             'any other suffix, as photo.jpg.xmp for xmp; those that are there stay, so that the same '
                             'command goes on if it was stopped')
    parser.add_argument('--output-dir', metavar='FOLDER',
                        help='write the sidecars there, in folders as the images are in')
    parser.add_argument('--overwrite', action='store_true', help='replace sidecars that are there, whoever wrote them')


def run(args):
    check_ways(args)
    _check_sidecar(args)
    if args.scores and _kind(args) != 'text':
        raise InputError('--scores is for text; jsonl, csv and html have the scores already')
    processes = Processes.started()
    tell = say if processes.first else lambda line: None
    paths, sidecars = processes.broadcast(_paths(args) if processes.first else None)
    if sidecars is not None and not paths:
        tell(f'all {sidecars.kept:,} images have a sidecar; --overwrite replaces them')
        return 0
    from chainer_caption.functions.matmul import using_precision
    if args.sentences is not None:
        tell('-s is not needed: the model carries its vocabulary')
    where = device(args.gpu, processes)
    with using_precision(args.precision, where, tell):
        return _caption(args, paths, sidecars, where, processes, tell)


def _caption(args, paths, sidecars, where, processes, tell):
    from chainer_caption.captioning.captioner import Captioner
    from chainer_caption.captioning.resumable import Images, StoredFeatures, caption_together
    if args.dataset is not None:
        dataset = processes.one_after_another(lambda: Dataset(args.dataset))
        captioner = Captioner.load(args.model, where, images=False, say=tell)
        work = StoredFeatures(captioner, dataset, args.split or 'test')
    else:
        work = Images(Captioner.load(args.model, where, args.encoder_weights, args.encoder, args.preprocessing,
                                       honour_exif=args.exif, max_pixels=args.max_pixels, say=tell), paths)
    search = search_of(args, work.captioner, **beam_options(args))
    if processes.first and sidecars is not None:
        return _write_sidecars(args, sidecars, work, caption_together(work, search, processes))
    # A pipe or a device takes what comes; only with a file can a run that was stopped go on.
    if processes.first and args.output is not None and not is_stream(args.output):
        return _write_resumably(args, work, search, processes)
    results = caption_together(work, search, processes)
    return _write(args, work, search, results) if processes.first else _exhaust(results)


def _exhaust(results):
    """What processes other than the one that writes do: they work, and have nothing to write."""
    collections.deque(results, maxlen=0)
    return 0


def _check_sidecar(args):
    for name in ('output', 'format', 'dataset', 'scores') if args.sidecar is not None else ():
        if getattr(args, name):
            raise InputError(f'--sidecar writes a caption beside each image, without --{name}')
    for name in ('output_dir', 'overwrite') if args.sidecar is None else ():
        if getattr(args, name):
            raise InputError(f'--{name.replace("_", "-")} belongs to --sidecar')


def _paths(args):
    """The images to caption, None where a dataset is to be captioned instead; and their `Sidecars`, or None."""
    named = bool(args.images) or args.list is not None
    if args.dataset is not None:
        if named:
            raise InputError('caption either images or a --dataset, not both')
        for name in ('encoder_weights', 'encoder', 'preprocessing'):
            if getattr(args, name) is not None:
                raise InputError(f'--{name.replace("_", "-")} is for images; a --dataset has its features already')
        return None, None
    if args.split is not None:
        raise InputError('--split belongs to --dataset')
    if not named:
        raise InputError('nothing to caption: name images or folders, -l LIST, or --dataset DATASET')
    listed, sidecars = _read_list(args.list) if args.list is not None else [], None
    if args.sidecar is not None:
        from chainer_caption.captioning.sidecars import Sidecars
        sidecars = Sidecars([*args.images, *listed], args.sidecar, args.output_dir, args.overwrite)
        paths = list(sidecars.missing)
    else:
        from chainer_caption.features.folders import find_images
        paths = find_images(args.images) + listed
    if not paths and not (sidecars and sidecars.kept):
        raise InputError(f'{args.list or ", ".join(args.images)}: no images in there')
    return paths, sidecars


def _read_list(path):
    try:
        with open(path, 'rb') as f:
            # File names are bytes; os.fsdecode keeps those that are not text. Windows' editors begin with a mark.
            return [os.fsdecode(line) for line in f.read().removeprefix(codecs.BOM_UTF8).splitlines() if line.strip()]
    except OSError as e:
        raise unreadable(path, e) from e


def _write(args, work, search, results):
    from chainer_caption.report import open_writer
    kind, settings = _format(args, work, search)
    failed = 0
    # A file that cannot be written should be found out before the first image is captioned, hence the order.
    with with_filename(args.output or 'standard output'), _progress(args, len(work.items)) as bar, \
            open_writer(kind, args.output or sys.stdout, **settings) as writer:
        for result in results:
            writer.write(result)
            failed += _tell_failure(result)
            bar.update()
    return 1 if failed else 0


def _write_sidecars(args, sidecars, work, results):
    failed = 0
    sidecars.prepare()
    with _progress(args, sidecars.kept + len(work.items), sidecars.kept) as bar:
        for result in results:
            failed += _tell_failure(result)
            if result.error is None:
                sidecars.write(result)
            bar.update()
    return 1 if failed else 0


def _write_resumably(args, work, search, processes):
    from chainer_caption.captioning.resumable import CaptionFile
    kind, settings = _format(args, work, search)
    failed = 0
    with CaptionFile(work, args.output, search, processes) as captions:
        with _progress(args, len(work.items), captions.done) as bar:
            for i, result in enumerate(captions.results()):
                failed += _tell_failure(result)
                bar.update(i >= captions.done)
        captions.finish(kind, lambda results: tqdm(results, 'writing', len(work.items), leave=False, disable=None),
                        **settings)
    return 1 if failed else 0


def _progress(args, total, done=0):
    # disable=None: a bar on a terminal only; and none where the captions themselves go there.
    hidden = True if args.output is None and args.sidecar is None and sys.stdout.isatty() else None
    return tqdm(total=total, initial=done, unit=' images', disable=hidden)


def _tell_failure(result):
    if result.error is not None:
        tqdm.write(failure(result.filename, result.error), file=sys.stderr)
    return result.error is not None


def _kind(args):
    return args.format or FORMATS.get(os.path.splitext(args.output or '')[1].lower(), 'text')


def _format(args, work, search):
    """The format and the settings of its writer."""
    kind = _kind(args)
    if kind == 'html':
        return kind, _gallery_settings(args, work.captioner, search)
    if kind == 'metadata':
        return kind, _metadata_settings(args, work.items)
    return kind, {'scores': True} if args.scores else {}


def _metadata_settings(args, paths):
    from chainer_caption.report.rows import metadata_name
    if args.dataset is not None:
        raise InputError('--format metadata names images from where its file lies; a --dataset has none')
    folder = os.path.dirname(args.output or '') or os.curdir
    for path in paths:                                  # what cannot be named is found out before it is captioned
        metadata_name(path, folder)
    return {'folder': folder}


def _gallery_settings(args, captioner, search):
    import datetime

    inputs = [*args.images, *filter(None, [args.list, args.dataset])]
    return {'title': f'Captions of {name_of(inputs[0])}' if len(inputs) == 1 else 'Captions',
            'date': datetime.date.today().isoformat(), 'settings': model_facts(captioner, search)}
