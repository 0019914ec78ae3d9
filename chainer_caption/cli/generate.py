"""generate: captions of images, or of a dataset's stored features."""
import argparse
import codecs
import collections
import contextlib
import errno
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from chainer_caption.cli import common
from chainer_caption.cli.common import say
from chainer_caption.cli.progress import Progress, show_failure, track
from chainer_caption.data import SPLITS, Dataset
from chainer_caption.errors import InputError
from chainer_caption.features.folders import find_images
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import is_stream, unreadable, with_filename

if TYPE_CHECKING:
    from chainer_caption.captioning.sidecars import Sidecars

EXAMPLES = '''\
  chainer-caption generate holiday/ -o captions.html             an HTML gallery, by the pretrained model
  chainer-caption generate -m model -i VGG_ILSVRC_19_layers.caffemodel holiday/ dog.jpg
  chainer-caption generate -m model -l images.txt --top 1 -g 0
  find /photos -name '*.jpg' -print0 | chainer-caption generate -l - -o captions.jsonl
  chainer-caption generate -m model --dataset features/coco --split test -o captions.jsonl
  chainer-caption generate holiday/ --sample --top-p 0.9 --seed 1          sampled captions
  chainer-caption generate holiday/ --beam-groups 5 --diversity-penalty 0.5          captions that differ more
  chainer-caption generate -m model -m model2 holiday/           an ensemble of two models
  chainer-caption generate holiday/ --min-confidence 0.3 -o captions.csv         nothing of images it does not know
  chainer-caption generate holiday/ --sidecar txt                holiday/dog.txt beside holiday/dog.jpg
  chainer-caption generate holiday/ --format metadata -o holiday/metadata.jsonl'''

FORMATS = {'.txt': 'text', **{f'.{name}': name for name in ('jsonl', 'json', 'csv', 'tsv', 'html')}, '.htm': 'html'}
_FULL = errno.ENOSPC, errno.EDQUOT                      # a full disk takes no further sidecar either


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from chainer_caption.features.images import MAX_PIXELS
    add = parser.add_argument_group('images').add_argument
    add('images', nargs='*', metavar='IMAGE|FOLDER',
        help='captioned in the order given; folders are walked in sorted order')
    add('-l', '--list', metavar='LIST', help='file with an image or folder on each line, in UTF-8 or UTF-16, or with '
        'NULs between them; - is standard input')
    add('--dataset', metavar='DATASET', help="caption a dataset's images by their stored features")
    add('--split', metavar='SPLIT', choices=SPLITS, help='split of the dataset: %(choices)s (default: test)')
    add('--limit', type=int, metavar='N', help='caption the first N images only')
    add('--no-exif', dest='exif', action='store_false', help='do not turn images by their EXIF orientation')
    add('--max-pixels', type=int, default=MAX_PIXELS, metavar='N',
        help='refuse images of more pixels (default: %(default)s)')
    add('-s', '--sentences', metavar='FILE',
        help='ignored: a model has its vocabulary (for commands written for chainer-image-caption)')
    model = parser.add_argument_group('model')
    common.add_models(model)
    common.add_encoder_weights(model)
    common.add_provenance(model, "made the model's features, if the model does not record it")
    common.add_device(model)
    common.add_precision(model)
    common.add_encoder_precision(model)
    search = parser.add_argument_group('search')
    for add_options in (common.add_beam, common.add_limits, common.add_ways):
        add_options(search)
    add = parser.add_argument_group('output').add_argument
    add('-o', '--output', metavar='OUT', help='file to write; - is standard output, the default. Until all is done, '
        'OUT.part holds what is done, and the same command continues from there')
    add('--format', choices=('text', 'jsonl', 'json', 'csv', 'tsv', 'html', 'metadata'),
        help="the output's format (default: by the suffix of OUT, else text); metadata is the metadata.jsonl of "
        "Hugging Face's ImageFolder, which belongs into the images' folder")
    add('--scores', action='store_true', help='in text, show the probability of each caption')
    add('--min-confidence', type=float, metavar='P', help='skip images whose confidence is below P, from 0 to 1: the '
        'probability that the best caption is good (its CIDEr at least 0.5), which the model estimates')
    add('--sidecar', metavar='SUFFIX',
        help="in place of OUT: write each image's best caption beside it, as photo.txt for txt or any other suffix, "
        'as photo.jpg.xmp for xmp. Existing ones are kept, so the same command continues a run')
    add('--output-dir', metavar='FOLDER', help="write the sidecars to this folder, in the images' subfolders")
    add('--overwrite', action='store_true', help='replace existing sidecars')


def run(args: argparse.Namespace) -> int:
    common.check_ways(args)
    _check_output(args)
    processes = Processes.started()
    tell = say if processes.first else lambda line: None
    found: Any = processes.broadcast(_paths(args) if processes.first else None)
    paths, sidecars = found
    if sidecars is not None:
        if not paths:
            tell(f'all {sidecars.kept:,} images have a sidecar; --overwrite replaces them')
            return 0
        if sidecars.renamed:
            tell(f'{sidecars.renamed[0]}: keeps the suffix of its image, because another image has the name without it'
                 + (f'; so do {len(sidecars.renamed) - 1:,} others' if len(sidecars.renamed) > 1 else ''))
    from chainer_caption.functions.matmul import using_precision
    if args.sentences is not None:
        tell('-s is not needed: the model has its vocabulary')
    where = common.device(args.gpu, processes)
    with using_precision(args.precision, where, tell):
        return _caption(args, paths, sidecars, where, processes, tell)


def _caption(args: argparse.Namespace, paths: list[str], sidecars: 'Sidecars | None', where: Any, processes: Processes,
             tell: Callable[[str], object]) -> int:
    from chainer_caption.captioning.captioner import Captioner
    from chainer_caption.captioning.resumable import Images, StoredFeatures, caption_together
    work: Any
    if args.dataset is not None:
        dataset = processes.one_after_another(lambda: Dataset(args.dataset))
        captioner = Captioner.load(args.model, where, images=False, say=tell)
        work = StoredFeatures(captioner, dataset, args.split or 'test', args.limit, args.min_confidence)
    else:
        work = Images(Captioner.load(args.model, where, args.encoder_weights, args.encoder, args.preprocessing,
                                     honour_exif=args.exif, max_pixels=args.max_pixels, say=tell,
                                     encoder_precision=args.encoder_precision or 'float32'), paths, args.min_confidence)
    search = common.search_of(args, work.captioner, **common.beam_options(args))
    # Only a file can be continued, not a pipe or a device.
    if processes.first and sidecars is None and args.output is not None and not is_stream(args.output):
        return _write_resumably(args, work, search, processes)
    results = caption_together(work, search, processes)
    if processes.first:
        return _write(args, work, search, results) if sidecars is None else _write_sidecars(sidecars, work, results)
    collections.deque(results, maxlen=0)                # the other processes compute, and have nothing to write
    return 0


def _check_output(args: argparse.Namespace) -> None:
    """Refuses what cannot be written, or makes no sense, before anything is loaded."""
    if args.limit is not None and args.limit < 1:
        raise InputError.of('limit', args.limit, 'must be at least 1')
    if args.output == '-':
        args.output = None
    for name in ('output_dir', 'overwrite') if args.sidecar is None else ('output', 'format', 'dataset', 'scores'):
        if getattr(args, name):
            raise InputError(f'--{name.replace("_", "-")} belongs to --sidecar' if args.sidecar is None else
                             f'--sidecar writes a caption beside each image, without --{name}')
    suffix = os.path.splitext(args.output or '')[1].lower()
    if args.output is not None and not is_stream(args.output):
        folder, name = os.path.split(args.output)
        if os.path.isdir(args.output):
            raise InputError(f'{args.output}: is a folder; name a file')
        if not os.path.isdir(folder or os.curdir):
            raise InputError(f'{args.output}: cannot be written (no such folder: {folder})')
        if len(os.fsencode(f'{name}.part')) > 255:
            raise InputError(f'{args.output}: cannot be written (the name of {name}.part is too long)')
        if args.format is None and suffix not in {'', *FORMATS}:
            raise InputError(f'{args.output}: no format has the suffix {suffix}; take one of {", ".join(FORMATS)}, or '
                             'choose one with --format')
    args.format = args.format or FORMATS.get(suffix, 'text')
    if args.scores and args.format != 'text':
        raise InputError('--scores is for text; the other formats contain the scores')


def _paths(args: argparse.Namespace) -> tuple[Any, Any]:
    """The images to caption, None where a dataset is captioned instead; and their `Sidecars`, or None."""
    named = bool(args.images) or args.list is not None
    if args.dataset is not None:
        if named:
            raise InputError('caption either images or a --dataset, not both')
        for name in ('encoder_weights', 'encoder', 'preprocessing', 'encoder_precision'):
            if getattr(args, name) is not None:
                raise InputError(f'--{name.replace("_", "-")} is for images; a --dataset has its features already')
        return None, None
    if args.split is not None:
        raise InputError('--split belongs to --dataset')
    if not named:
        raise InputError('nothing to caption: name images or folders, -l LIST, or --dataset DATASET')
    sources, sidecars = [*args.images, *(_read_list(args.list) if args.list is not None else [])], None
    if args.sidecar is not None:
        from chainer_caption.captioning.sidecars import Sidecars
        sidecars = Sidecars(sources, args.sidecar, args.output_dir, args.overwrite)
    paths = list(sidecars.missing) if sidecars else [path for source in sources for path in find_images(source)]
    if not paths and not (sidecars and sidecars.kept):
        raise InputError(f'{args.list or ", ".join(args.images)}: no images in there')
    return paths[:args.limit], sidecars


def _read_list(path: str) -> list[str]:
    """The lines of a list: file names are bytes, which `os.fsdecode` keeps even where they are no text."""
    try:
        data = sys.stdin.buffer.read() if path == '-' else pathlib.Path(path).read_bytes()
    except OSError as e:
        raise unreadable(path, e) from e
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            data = data.decode('utf-16').encode('utf-8', 'surrogatepass')
        except UnicodeDecodeError as e:
            raise InputError(f'{path}: begins as UTF-16 and is not; save it as UTF-8') from e
    data = data.removeprefix(codecs.BOM_UTF8)
    return [os.fsdecode(line) for line in (data.split(b'\0') if b'\0' in data else data.splitlines()) if line.strip()]


def _write(args: argparse.Namespace, work: Any, search: Any, results: Iterable[Any]) -> int:
    from chainer_caption.report import open_writer
    settings = _settings(args, work, search)
    # No bar where the captions themselves go to the terminal. The order finds a file that cannot be written first.
    with with_filename(args.output or 'standard output'), \
            Progress('generate', len(work.items), hidden=sys.stdout.isatty()) as bar, \
            open_writer(args.format, args.output or sys.stdout, **settings) as writer:
        return _status(results, bar, writer.write)


def _write_sidecars(sidecars: 'Sidecars', work: Any, results: Iterable[Any]) -> int:
    def write(result: Any) -> str | None:
        try:
            if result.captions:
                sidecars.write(result)
        except OSError as e:
            if e.errno in _FULL:
                raise
            return f'its sidecar cannot be written ({e.strerror or e})'
        return None

    sidecars.prepare(work.items)
    with _counting(sidecars.kept + len(work.items), sidecars.kept) as bar:
        return _status(results, bar, write)


def _write_resumably(args: argparse.Namespace, work: Any, search: Any, processes: Processes) -> int:
    from chainer_caption.captioning.resumable import CaptionFile
    settings = _settings(args, work, search)
    with CaptionFile(work, args.output, search, processes) as captions:
        with _counting(len(work.items), captions.done) as bar:
            status = _status(captions.results(), bar, done=captions.done)
        captions.finish(args.format, lambda results: track(results, 'writing', len(work.items)), **settings)
    return status


@contextlib.contextmanager
def _counting(total: int, done: int) -> Iterator[Progress]:
    """Progress of work that can be continued: Ctrl-C tells how much is done."""
    with Progress('generate', total, done) as bar:
        try:
            yield bar
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f'{bar.done:,} of {total:,} images done; the same command continues') from None


def _status(results: Iterable[Any], bar: Progress, write: Callable[[Any], Any] | None = None, done: int = 0) -> int:
    """Writes results, with a function that returns why it could not, and shows failures: 1 if there are any, else 0."""
    status = 0
    for i, result in enumerate(results):
        why = (write and write(result)) or result.error
        if why is not None:
            show_failure(result.filename, why)
            status = 1
        bar.update(i >= done)
    return status


def _settings(args: argparse.Namespace, work: Any, search: Any) -> dict[str, Any]:
    """The settings of the format's writer."""
    if args.format == 'html':
        import datetime
        inputs = [*args.images, *filter(None, [args.list, args.dataset])]
        return {'title': f'Captions of {common.name_of(inputs[0])}' if len(inputs) == 1 else 'Captions',
                'date': datetime.date.today().isoformat(), 'settings': common.model_facts(work.captioner, search),
                'honour_exif': args.exif, 'max_pixels': args.max_pixels}
    if args.format == 'metadata':
        from chainer_caption.report.rows import metadata_name
        if args.dataset is not None:
            raise InputError('--format metadata names images relative to its file; a --dataset has no paths')
        folder = os.path.dirname(args.output or '') or os.curdir
        for path in work.items:                         # raises before anything is captioned
            metadata_name(path, folder)
        return {'folder': folder}
    return {'scores': True} if args.scores else {}
