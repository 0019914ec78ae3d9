"""generate: captions of pictures, or of a release's stored features."""
import codecs
import collections
import os
import sys

from tqdm import tqdm

from chainer_caption.cli.common import (
    add_beam,
    add_device,
    add_limits,
    add_origin,
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
from chainer_caption.data import SPLITS, Release
from chainer_caption.errors import InputError
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import is_stream, naming, unreadable

DESCRIPTION = 'Caption pictures, folders of pictures, or the stored features of a release.'
EXAMPLES = '''\
  generate.py -m model -i VGG_ILSVRC_19_layers.caffemodel holiday/ dog.jpg
  generate.py -m model -l pictures.txt --top 1 -g 0
  generate.py -m model holiday/ -o captions.jsonl           or .csv, or .html: a gallery
  generate.py -m model --release features/coco --split test -o captions.jsonl
  generate.py -m model holiday/ --sample --top-p 0.9 --seed 1       captions drawn from the model
  generate.py -m model holiday/ --groups 5 --diversity 0.5          captions that differ
  generate.py -m model -m model2 holiday/                           two models as one'''

FORMATS = {'.txt': 'text', '.jsonl': 'jsonl', '.csv': 'csv', '.html': 'html', '.htm': 'html'}


def add_arguments(parser):
    from chainer_caption.features.pictures import MAX_PIXELS
    parser.add_argument('pictures', nargs='*', metavar='PICTURE|FOLDER', help='folders are walked, in sorted order')
    parser.add_argument('-m', '--model', required=True, action='append', metavar='MODEL',
                        help='model directory that train.py wrote; several, each with -m, caption as one')
    parser.add_argument('-i', '--image-weights', metavar='WEIGHTS',
                        help="the image network's weights (.caffemodel, .npz, .pth, .safetensors)")
    parser.add_argument('-l', '--list', metavar='LIST', help='file with a picture path on each line')
    parser.add_argument('-s', '--sentences', metavar='FILE', help='not needed: a model carries its vocabulary')
    parser.add_argument('--release', metavar='RELEASE', help="caption a release's pictures by its stored features")
    parser.add_argument('--split', metavar='SPLIT', choices=SPLITS, help='which of them (default: test)')
    add_device(parser)
    add_beam(parser)
    add_limits(parser)
    add_ways(parser)
    add_origin(parser, "made the model's features, if the model does not record it")
    parser.add_argument('--no-exif', dest='exif', action='store_false',
                        help='take pictures as they are stored, whatever their EXIF orientation says')
    parser.add_argument('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
                        help='refuse pictures of more (%(default)s)')
    parser.add_argument('--format', choices=('text', 'jsonl', 'csv', 'html'),
                        help='(default: by the name of OUT, else text)')
    parser.add_argument('--scores', action='store_true', help='in text, say how probable each caption is')
    parser.add_argument('-o', '--output', metavar='OUT',
                        help='file to write (default: standard output); until all is done, what is done stands in '
                             'OUT.part, and the same command goes on from there if it was stopped')


def run(args):
    check_ways(args)
    if args.scores and _kind(args) != 'text':
        raise InputError(f'--scores is for text; {_kind(args)} has the scores already')
    processes = Processes.started()
    tell = say if processes.first else lambda line: None
    paths = processes.broadcast(_paths(args) if processes.first else None)
    from chainer_caption.captioning.captioner import Captioner
    from chainer_caption.captioning.resumable import Pictures, StoredFeatures, caption_together
    if args.sentences is not None:
        tell('-s is not needed: the model carries its vocabulary')
    where = device(args.gpu, processes)
    if args.release is not None:
        release = processes.one_after_another(lambda: Release(args.release))
        work = StoredFeatures(Captioner.load(args.model, where, pictures=False), release, args.split or 'test')
    else:
        work = Pictures(Captioner.load(args.model, where, args.image_weights, args.network, args.profile,
                                       honour_exif=args.exif, max_pixels=args.max_pixels, say=tell), paths)
    search = search_of(args, work.captioner, **beam_options(args))
    # A pipe or a device takes what comes; only with a file can a run that was stopped go on.
    if processes.first and args.output is not None and not is_stream(args.output):
        return _write_resumably(args, work, search, processes)
    results = caption_together(work, search, processes)
    return _write(args, work, search, results) if processes.first else _exhaust(results)


def _exhaust(results):
    """What processes other than the one that writes do: they work, and have nothing to write."""
    collections.deque(results, maxlen=0)
    return 0


def _paths(args):
    """The pictures to caption; None where a release is to be captioned instead."""
    named = bool(args.pictures) or args.list is not None
    if args.release is not None:
        if named:
            raise InputError('caption either pictures or a --release, not both')
        for name in ('image_weights', 'network', 'profile'):
            if getattr(args, name) is not None:
                raise InputError(f'--{name.replace("_", "-")} is for pictures; a --release has its features already')
        return None
    if args.split is not None:
        raise InputError('--split belongs to --release')
    if not named:
        raise InputError('nothing to caption: name pictures or folders, -l LIST, or --release RELEASE')
    from chainer_caption.features.folders import find_pictures
    paths = find_pictures(args.pictures)
    if args.list is not None:
        paths += _read_list(args.list)
    if not paths:
        raise InputError(f'{args.list or ", ".join(args.pictures)}: no pictures in there')
    return paths


def _read_list(path):
    try:
        with open(path, 'rb') as f:
            # File names are bytes; os.fsdecode keeps those that are not text. Windows' editors begin with a mark.
            return [os.fsdecode(line) for line in f.read().removeprefix(codecs.BOM_UTF8).splitlines() if line.strip()]
    except OSError as e:
        raise unreadable(path, e) from e


def _write(args, work, search, results):
    from chainer_caption.report import open_writer
    kind, settings = _format(args, work.captioner, search)
    failed = 0
    # A file that cannot be written should be found out before the first picture is captioned, hence the order.
    with naming(args.output or 'standard output'), _progress(args, len(work.items)) as bar, \
            open_writer(kind, args.output or sys.stdout, **settings) as writer:
        for result in results:
            writer.write(result)
            failed += _tell_failure(result)
            bar.update()
    return 1 if failed else 0


def _write_resumably(args, work, search, processes):
    from chainer_caption.captioning.resumable import CaptionFile
    kind, settings = _format(args, work.captioner, search)
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
    hidden = True if args.output is None and sys.stdout.isatty() else None
    return tqdm(total=total, initial=done, unit=' pictures', disable=hidden)


def _tell_failure(result):
    if result.error is not None:
        tqdm.write(failure(result.filename, result.error), file=sys.stderr)
    return result.error is not None


def _kind(args):
    return args.format or FORMATS.get(os.path.splitext(args.output or '')[1].lower(), 'text')


def _format(args, captioner, search):
    """The format and the settings of its writer."""
    kind = _kind(args)
    settings = {'scores': True} if args.scores else {}
    return kind, _gallery_settings(args, captioner, search) if kind == 'html' else settings


def _gallery_settings(args, captioner, search):
    import datetime

    inputs = [*args.pictures, *filter(None, [args.list, args.release])]
    return {'title': f'Captions of {name_of(inputs[0])}' if len(inputs) == 1 else 'Captions',
            'date': datetime.date.today().isoformat(), 'settings': model_facts(args.model, captioner, search)}
