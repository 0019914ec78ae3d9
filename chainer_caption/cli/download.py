"""download: datasets, and the weights of encoders, from those who publish them."""
import argparse
import os
from typing import Any

from chainer_caption.cli.progress import Progress, say, track
from chainer_caption.data.sources import DATASETS, IMAGES, WEIGHTS
from chainer_caption.errors import InputError

EXAMPLES = '''\
  chainer-caption download flickr8k                     features/flickr8k: captions and features, enough for training
  chainer-caption download coco --with-images -o /data/coco     the images as well
  chainer-caption download vgg19                        to where extract-features and generate look for it

The same command continues a download that was stopped. downloads.json lists what was unpacked, which is not fetched
again.'''

# Lists what was unpacked in a dataset's folder, with what the server reported of it.
_RECORD = 'downloads.json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('name', choices=[*DATASETS, *WEIGHTS], help='what to download')
    add('-o', '--output', metavar='FOLDER',
        help='folder to write to (default: features/NAME; for weights, where Chainer keeps its models)')
    add('--with-images', action='store_true', help="download a dataset's images as well")


def run(args: argparse.Namespace) -> int:
    folder, sources = args.output, [DATASETS.get(args.name) or WEIGHTS[args.name]]
    if args.with_images:
        if args.name not in IMAGES:
            raise InputError('--with-images: the images of flickr30k are sent on request alone, see '
                             'http://shannon.cs.illinois.edu/DenotationGraph' if args.name in DATASETS else
                             f'--with-images is for datasets; {args.name} has no images')
        sources += IMAGES[args.name]
    if folder is None:
        from chainer_caption.features.weights import weights_folder
        folder = os.path.join('features', args.name) if args.name in DATASETS else weights_folder()
    if folder is None:
        raise InputError('there is no home folder to put weights into; name a folder with -o, and later the file in it '
                         'with -i')
    os.makedirs(folder, exist_ok=True)
    fetch = _fetch_archive if args.name in DATASETS else _fetch_file
    for source in sources:
        fetch(source, folder)
    return 0


def _fetch_archive(source: Any, folder: str) -> None:
    from chainer_caption.storage.files import read_json, write_json
    from chainer_caption.storage.unpack import unpack
    record, archive = os.path.join(folder, _RECORD), _place(source, folder)
    unpacked = read_json(record) if os.path.exists(record) else []
    if not isinstance(unpacked, list) or not all(isinstance(remote, dict) for remote in unpacked):
        raise InputError(f'{record}: is not a list of downloads; move it elsewhere')
    if any(remote.get('url') == source.url for remote in unpacked):
        say(f'{source.url} is in {folder} already')
        return
    remote = _fetch_file(source, folder)
    unpack(archive, folder, source.strip, lambda members: track(members, 'unpacking', unit='files'))
    write_json(record, [*unpacked, remote])
    os.unlink(archive)


def _fetch_file(source: Any, folder: str) -> dict[str, Any]:
    """Fetches a file if it is not there; returns what the server reports of it."""
    from chainer_caption.storage.downloads import ask, begun, download
    from chainer_caption.storage.unpack import check_room
    path = _place(source, folder)
    if os.path.exists(path):
        say(f'{path} is there already')
        return {'url': source.url, 'size': os.path.getsize(path)}
    remote = ask(source.url)
    done, size = begun(remote, path), remote['size']
    check_room(folder, size - done, source.url)
    say(f'{source.url}: {size / 1e6:,.1f} MB' + (f', of which {done / 1e6:,.1f} are there' if done else '') +
        f', to {folder}; licence: {source.licence}')
    with Progress('download', size, done, 'MB', 1e6) as bar:
        download(remote, path, bar.update, say)
    return remote


def _place(source: Any, folder: str) -> str:
    return os.path.join(folder, source.url.rpartition('/')[2])
