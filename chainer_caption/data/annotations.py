"""Reads the captions of one's own pictures, in the formats in which people keep them, and cuts them into words."""
import dataclasses
import functools
import os
import re
import sys
import unicodedata
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


def read_caption_file(path, pictures=()):
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
            - Flickr's `*.token.txt`, lines of the picture's name, `#`, a number, a tab and the caption;

            or a folder with a `.txt` for each picture, under its name and at its place, with a caption a line.
        pictures (iterable of str): The pictures of which a folder may hold the captions, as paths in theirs.

    Returns:
        dict: File name, as it is written there, to `Described`.

    Raises:
        InputError: The file cannot be read or is of none of these formats; the line says where.
    """
    if os.path.isdir(path):
        return read_sidecars(path, pictures)
    try:
        with open_regular(path) as f:
            head = f.read(_HEAD)
    except OSError as e:
        raise unreadable(path, e) from e
    for known in FORMATS:
        if known.is_it(head):
            return known.read(path)
    raise InputError(f'{path}: no captions in a format known here: {"; ".join(known.name for known in FORMATS)}; or a '
                     'folder with a .txt for each picture')


def tokenize(caption):
    """Cuts a caption into words: lower case, punctuation dropped, every alphabet kept.

    It gives the tokens of Karpathy's files where those are known (all of Flickr8k's are equal). NLTK's tokenizer by a
    pattern needs no data to be downloaded, and the pattern is that of its `WordPunctTokenizer` without punctuation;
    but vowel signs and accents that are characters of their own belong to their words, as in Hindi.

    Args:
        caption (str): As it was written.

    Returns:
        list of str: Its words.
    """
    return _tokenizer().tokenize(unicodedata.normalize('NFC', caption).lower())


@functools.lru_cache(maxsize=1)
def _tokenizer():
    from nltk.tokenize import RegexpTokenizer  # only here: it brings 50 MB and half a second along
    marks = ''.join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith('M'))
    joiners = '\u200c\u200d'                            # within words of Persian, and of India's scripts
    return RegexpTokenizer(rf'(?:[^\W_]|[{marks}{joiners}])+')
