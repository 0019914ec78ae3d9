"""Reads the captions of one's own images, in the formats in which people keep them, and cuts them into words."""
import dataclasses
import os
import re
from collections.abc import Callable

from chainer_caption.data.caption_files import read_csv, read_flickr, read_json_file, read_metadata, read_sidecars
from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular, parse_json, unreadable

# Of a file, in bytes: what is looked at to tell its format.
_HEAD = 2 ** 16


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of captions.

    Attributes:
        name (str): What to call it before a user.
        is_it (callable): Takes the beginning of a file, bytes, and says whether it is of this format.
        read (callable): Takes a path and gives what `read_caption_file` gives.
    """
    name: str
    is_it: Callable
    read: Callable


def _is_metadata(head):
    try:
        row = parse_json(head.lstrip().partition(b'\n')[0])
    except (ValueError, MemoryError):
        return False
    return isinstance(row, dict) and 'file_name' in row


#: The formats of files. A file is of the first one that it looks like, whatever its name.
FORMATS = (
    Format('metadata.jsonl with file_name and text', _is_metadata, read_metadata),
    Format("COCO's annotations or Karpathy's dataset_*.json",
           re.compile(rb'(\xef\xbb\xbf)?\s*[{\[]').match, read_json_file),
    Format("Flickr's *.token.txt (name.jpg#0, a tab, the caption)",
           re.compile(rb'[^\t\r\n]+#\d+\t').match, read_flickr),
    Format('CSV whose first line names the columns filename and caption',
           re.compile(rb'[^\r\n]*\b(filename|caption)\b').match, read_csv))


def read_caption_file(path, images=()):
    """Reads captions.

    Args:
        path (str or os.PathLike): A file in one of these formats, which it is known by (not by its name), all in UTF-8:

            - CSV whose first line names the columns `filename` and `caption`, perhaps `split` (train, restval, val or
              test), and any others, which are ignored; a row for each caption;
            - COCO's caption annotations (JSON: `images` with `id` and `file_name`, `annotations` with `image_id` and
              `caption`);
            - Karpathy's splits (JSON: `images` with `filename`, perhaps `filepath`, its folder, and `cocoid`, with
              `split` and `sentences`, whose `tokens` are taken as they are);
            - the `metadata.jsonl` of Hugging Face's ImageFolder, a JSON object a line with `file_name`, captions
              (`text`, `caption`, `captions`, or several: `caption_0` ...), and perhaps `split`;
            - Flickr's `*.token.txt`, lines of the image's name, `#`, a number, a tab and the caption;

            or a folder with a `.txt` for each image, under its name and at its place, with a caption a line.
        images (iterable of str): The images of which a folder may hold the captions, as paths in theirs.

    Returns:
        dict: File name, as it is written there, to `Described`.

    Raises:
        InputError: The file cannot be read or is of none of these formats; the line says where.
    """
    if os.path.isdir(path):
        return read_sidecars(path, images)
    try:
        with open_regular(path) as f:
            head = f.read(_HEAD)
    except OSError as e:
        raise unreadable(path, e) from e
    for known in FORMATS:
        if known.is_it(head):
            return known.read(path)
    raise InputError(f'{path}: no captions in a format known here: {"; ".join(known.name for known in FORMATS)}; or a '
                     'folder with a .txt for each image')
