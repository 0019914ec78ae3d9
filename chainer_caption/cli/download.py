"""download: data sets and the weights of encoders, from those who publish them."""
import os

from tqdm import tqdm

from chainer_caption.cli.common import say
from chainer_caption.data.sources import IMAGES, RELEASES, WEIGHTS
from chainer_caption.errors import InputError

DESCRIPTION = 'Download a data set with its features, or the weights of an encoder.'
EXAMPLES = '''\
  download.py flickr8k                      features/flickr8k: captions and features, all that training needs
  download.py coco --with-images -o /data/coco     the images too
  download.py vgg19                         to where extract_features.py and generate.py look for it

Stopped and started again with the same command it goes on where it was. What was unpacked is listed in downloads.json,
and is not fetched again.'''

# In the folder of a data set: what has been unpacked there, and what the server said of it.
_RECORD = 'downloads.json'


def add_arguments(parser):
    parser.add_argument('name', choices=[*RELEASES, *WEIGHTS], help='what to download')
    parser.add_argument('-o', '--output', metavar='FOLDER',
                        help='where to (features/NAME; of weights, the folder where Chainer keeps its models)')
    parser.add_argument('--with-images', action='store_true', help="a data set's images as well")


def run(args):
    folder, sources = args.output, [RELEASES.get(args.name) or WEIGHTS[args.name]]
    if args.with_images:
        if args.name not in IMAGES:
            raise InputError('--with-images: those of flickr30k are sent on request alone, see '
                             'http://shannon.cs.illinois.edu/DenotationGraph' if args.name in RELEASES else
                             f'--with-images belongs to a data set; {args.name} has none')
        sources += IMAGES[args.name]
    if folder is None and args.name in RELEASES:
        folder = os.path.join('features', args.name)
    elif folder is None:
        from chainer_caption.features.weights import weights_folder
        folder = weights_folder()
        if folder is None:
            raise InputError('there is no home to put weights into; name a folder with -o, and the file in it with -i')
    os.makedirs(folder, exist_ok=True)
    fetch = _fetch_archive if args.name in RELEASES else _fetch_file
    for source in sources:
        fetch(source, folder)
    return 0


def _fetch_archive(source, folder):
    from chainer_caption.storage.files import read_json, write_json
    from chainer_caption.storage.unpack import unpack
    record, archive = os.path.join(folder, _RECORD), _place(source, folder)
    unpacked = read_json(record) if os.path.exists(record) else []
    if not isinstance(unpacked, list) or not all(isinstance(remote, dict) for remote in unpacked):
        raise InputError(f'{record}: is something else than a list of downloads; move it out of the way')
    if any(remote.get('url') == source.url for remote in unpacked):
        say(f'{source.url} is in {folder} already')
        return
    remote = _fetch_file(source, folder)
    unpack(archive, folder, source.strip, lambda members: tqdm(members, 'unpacking', unit=' files', disable=None))
    write_json(record, [*unpacked, remote])
    os.unlink(archive)


def _fetch_file(source, folder):
    """Fetches a file if it is not there; what the server says of it."""
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
    with tqdm(total=size, initial=done, unit='B', unit_scale=True, disable=None) as bar:
        download(remote, path, bar.update, say)
    return remote


def _place(source, folder):
    return os.path.join(folder, source.url.rpartition('/')[2])
