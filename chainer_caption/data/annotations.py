"""Reads the captions of one's own pictures, from CSV or COCO's JSON, and cuts them into words."""
import csv
import dataclasses
import functools
import io
import os
import sys
import unicodedata

from chainer_caption.data.captions import SPLITS
from chainer_caption.errors import InputError
from chainer_caption.storage.files import open_regular, read_json, unreadable

# Bytes of a file, and letters of a caption, at most: putting accents in order takes the square of their number.
_LARGEST, _LETTERS = 2 ** 30, 10_000


@dataclasses.dataclass
class Described:
    """What a file says of one picture.

    Attributes:
        captions (list of str): Its captions as they were written.
        split (str or None): One of `SPLITS`, where the file gives it.
        coco_id (int or None): Its id in COCO.
    """
    captions: list = dataclasses.field(default_factory=list)
    split: str | None = None
    coco_id: int | None = None


def read_caption_file(path):
    """Reads a file of captions.

    Args:
        path (str or os.PathLike): Either a `.json` of COCO's caption annotations (`images` with `id` and `file_name`,
            `annotations` with `image_id` and `caption`), or CSV in UTF-8 whose first line names the columns
            `filename` and `caption`, perhaps `split` (train, restval, val or test), and any others, which are
            ignored; a row for each caption.

    Returns:
        dict: File name, as it is written there, to `Described`.

    Raises:
        InputError: The file cannot be read or does not hold that; the line says where.
    """
    return _read_coco(path) if os.fspath(path).lower().endswith('.json') else _read_csv(path)


def _read_csv(path):
    found = {}
    try:
        with io.TextIOWrapper(open_regular(path), 'utf-8-sig', newline='') as f:
            rows = csv.DictReader(f, strict=True)
            for name in ('filename', 'caption'):
                if name not in (rows.fieldnames or ()):
                    raise InputError(f'{path}: its first line should name the columns filename, caption and perhaps '
                                     f'split, and has no {name}')
            for row in rows:
                where = f'{path}: line {rows.line_num}'
                if not row['filename'] or row['caption'] is None:
                    raise InputError(f'{where} has no {"caption" if row["filename"] else "filename"}')
                if None in row:
                    raise InputError(f'{where} has more columns than the first; put quotes around a caption with '
                                     'commas')
                described = found.setdefault(row['filename'], Described(split=row.get('split')))
                if 'split' in row and row['split'] not in SPLITS:
                    raise InputError(f'{where}: the split "{row["split"]}" is none of {", ".join(SPLITS)}')
                if described.split != row.get('split'):
                    raise InputError(f'{where}: {row["filename"]} is of the split {described.split} and of '
                                     f'{row["split"]}')
                described.captions.append(_checked(row['caption'], where))
    except OSError as e:
        raise unreadable(path, e) from e
    except UnicodeDecodeError as e:
        raise InputError(f'{path}: not UTF-8; save it as UTF-8') from e
    except csv.Error as e:
        raise InputError(f'{path}: line {rows.line_num}: not sound CSV ({e})') from e
    if not found:
        raise InputError(f'{path}: no captions in it')
    return found


def _read_coco(path):
    data = read_json(path, _LARGEST)
    pictures, found = {}, {}
    for image in _records(path, data, 'images', id=int, file_name=str):
        found[image['file_name']] = pictures[image['id']] = Described(coco_id=image['id'])
    for i, annotation in enumerate(_records(path, data, 'annotations', image_id=int, caption=str)):
        if annotation['image_id'] not in pictures:
            raise InputError(f'{path}: annotations[{i}] is of the image {annotation["image_id"]}, which is not there')
        pictures[annotation['image_id']].captions.append(_checked(annotation['caption'], f'{path}: annotations[{i}]'))
    return found


def _records(path, data, key, **kinds):
    records = data.get(key) if isinstance(data, dict) else None
    if not isinstance(records, list) or not records:
        raise InputError(f'{path}: no list "{key}"; COCO\'s caption annotations have "images" and "annotations"')
    for i, record in enumerate(records):
        for name, kind in kinds.items():
            if not isinstance(record, dict) or not isinstance(record.get(name), kind):
                raise InputError(f'{path}: {key}[{i}] has no {"number" if kind is int else "string"} "{name}"')
        yield record


def _checked(caption, where):
    if len(caption) > _LETTERS:
        raise InputError(f'{where}: a caption of {len(caption):,} letters; at most {_LETTERS:,} are taken')
    return caption


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
