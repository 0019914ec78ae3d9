"""The formats in which people keep the captions of their images, each read into the same.

Nothing but the file itself is opened: the names in it are compared to those of images that are there. Of a folder the
files are read that have the images' names, unless a link leads out of it.
"""
import csv
import dataclasses
import io
import os
import posixpath
import re

from chainer_caption.data.captions import SPLITS
from chainer_caption.errors import InputError
from chainer_caption.storage.files import escapes_root, open_regular, parse_json, read_json, unreadable

# Bytes of a file, of a line of it and of a file with one image's captions, and letters of a caption, at most: putting
# accents in order takes the square of their number.
_LARGEST, _LINE, _SIDECAR, _LETTERS = 2 ** 30, 2 ** 24, 2 ** 20, 10_000

_KINDS = {int: 'number', str: 'string', list: 'list'}

# What people call the columns with captions, and what Hugging Face's libraries and the papers before them call splits.
_COLUMNS = re.compile(r'(text|caption|prompt|description)s?(_?\d+)?')
_ALSO = {'validation': 'val', 'valid': 'val', 'dev': 'val'}


@dataclasses.dataclass
class Described:
    """What a file says of one image.

    Attributes:
        captions (list of str): Its captions as they were written.
        split (str or None): One of `SPLITS`, where the file gives it.
        coco_id (int or None): Its id in COCO.
        tokens (list of list of str, or None): The words of each caption, where the file gives them.
    """
    captions: list = dataclasses.field(default_factory=list)
    split: str | None = None
    coco_id: int | None = None
    tokens: list | None = None


def read_csv(path):
    """Reads CSV; see `read_caption_file`, as for all of these."""
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
                if 'split' in row:
                    _check_split(row['split'], where)
                _described(found, row['filename'], row.get('split'), where).captions.append(
                    _checked(row['caption'], where))
    except OSError as e:
        raise unreadable(path, e) from e
    except UnicodeDecodeError as e:
        raise InputError(f'{path}: not UTF-8; save it as UTF-8') from e
    except csv.Error as e:
        raise InputError(f'{path}: line {rows.line_num}: not sound CSV ({e})') from e
    if not found:
        raise InputError(f'{path}: no captions in it')
    return found


def read_json_file(path):
    """Reads JSON, COCO's annotations or Karpathy's splits."""
    data = read_json(path, _LARGEST)
    images = data.get('images') if isinstance(data, dict) else None
    if isinstance(images, list) and any(isinstance(image, dict) and 'sentences' in image for image in images):
        return _of_karpathy(path, data)
    return _of_coco(path, data)


def _of_karpathy(path, data):
    found = {}
    for i, image in enumerate(_records(path, data, 'images', filename=str, split=str, sentences=list)):
        where, folder = f'{path}: images[{i}]', image.get('filepath', '')
        if not isinstance(folder, str):
            raise InputError(f'{where}: its "filepath" is no string')
        name = posixpath.join(folder, image['filename'])
        if name in found:
            raise InputError(f'{where}: {name} is there twice')
        _check_split(image['split'], where)
        coco_id = image.get('cocoid')
        found[name] = of = Described(split=image['split'], coco_id=coco_id if isinstance(coco_id, int) else None,
                                     tokens=[])
        for j, sentence in enumerate(image['sentences']):
            tokens = sentence.get('tokens') if isinstance(sentence, dict) else None
            if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
                raise InputError(f'{where}.sentences[{j}] has no list "tokens" of strings')
            raw = sentence.get('raw')
            of.captions.append(raw if isinstance(raw, str) else ' '.join(tokens))
            of.tokens.append(tokens)
    return found


def _of_coco(path, data):
    images, found = {}, {}
    for image in _records(path, data, 'images', id=int, file_name=str):
        found[image['file_name']] = images[image['id']] = Described(coco_id=image['id'])
    for i, annotation in enumerate(_records(path, data, 'annotations', image_id=int, caption=str)):
        if annotation['image_id'] not in images:
            raise InputError(f'{path}: annotations[{i}] is of the image {annotation["image_id"]}, which is not there')
        images[annotation['image_id']].captions.append(_checked(annotation['caption'], f'{path}: annotations[{i}]'))
    return found


def _records(path, data, key, **kinds):
    records = data.get(key) if isinstance(data, dict) else None
    if not isinstance(records, list) or not records:
        raise InputError(f'{path}: no list "{key}"; COCO\'s caption annotations have "images" and "annotations"')
    for i, record in enumerate(records):
        for name, kind in kinds.items():
            if not isinstance(record, dict) or not isinstance(record.get(name), kind):
                raise InputError(f'{path}: {key}[{i}] has no {_KINDS[kind]} "{name}"')
        yield record


def read_metadata(path):
    """Reads the JSON lines of an ImageFolder."""
    found = {}
    for number, line in _lines(path):
        where = f'{path}: line {number}'
        try:
            row = parse_json(line)
        except (ValueError, MemoryError) as e:
            raise InputError(f'{where}: no JSON ({e})') from e
        name = row.get('file_name') if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            raise InputError(f'{where} has no string "file_name"')
        columns = [key for key in row if _COLUMNS.fullmatch(key)]
        if not columns:
            raise InputError(f'{where} has no captions: no "text", "caption", "captions" or "caption_0"')
        split = row.get('split')
        if split is not None:
            split = _ALSO.get(str(split), split)
            _check_split(split, where)
        of = _described(found, name, split, where)
        for caption in (caption for key in columns for caption in _as_list(row[key])):
            if not isinstance(caption, str):
                raise InputError(f'{where}: a caption that is no string')
            of.captions.append(_checked(caption, where))
    return found


def _as_list(value):
    return value if isinstance(value, list) else [] if value is None else [value]


def read_flickr(path):
    """Reads Flickr8k's and Flickr30k's tokens."""
    found = {}
    for number, line in _lines(path):
        where = f'{path}: line {number}'
        match = re.fullmatch(r'([^\t]+)#\d+\t(.*)', _text(line, where).rstrip('\r\n'))
        if match is None:
            raise InputError(f'{where} is not a name, #, a number, a tab and a caption')
        _described(found, match[1], None, where).captions.append(_checked(match[2], where))
    return found


def read_sidecars(folder, images):
    """Reads the captions of images from files under their names, with a caption a line.

    Args:
        folder (str or os.PathLike): Where the files are.
        images (iterable of str): The images, as paths in a folder of their own, which may be the same.

    Returns:
        dict: Image to `Described`, of those that have such a file.
    """
    found, of_file = {}, {}
    for image in images:
        name = os.path.splitext(image)[0] + '.txt'
        path = os.path.join(folder, name)
        if not os.path.lexists(path):
            continue
        if name in of_file:
            raise InputError(f'{path}: could be of {of_file[name]} and of {image}; rename one of them')
        of_file[name] = image
        if escapes_root(path, folder):
            raise InputError(f'{path}: a link leads out of {folder}; copy the file there')
        lines = (_text(line, path).strip() for _, line in _lines(path, _SIDECAR))
        found[image] = Described([_checked(line, path) for line in lines])
    if not found:
        raise InputError(f'{folder}: no captions of the images in there; they should be called as the images are, '
                         'with .txt')
    return found


def _lines(path, limit=_LARGEST):
    """The lines of a file that are not empty, with their numbers: pairs of int and bytes."""
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            if size > limit:
                raise InputError(f'{path}: {size:,} bytes are too many for such a file (at most {limit:,})')
            number = 0
            while line := f.readline(_LINE):
                number += 1
                if len(line) == _LINE:
                    raise InputError(f'{path}: line {number} is too long')
                if line.strip():
                    yield number, line
    except OSError as e:
        raise unreadable(path, e) from e


def _text(line, where):
    try:
        return line.decode('utf-8-sig')
    except UnicodeDecodeError as e:
        raise InputError(f'{where}: not UTF-8; save it as UTF-8') from e


def _described(found, name, split, where):
    """What is known of an image, to be added to."""
    of = found.setdefault(name, Described(split=split))
    if of.split != split:
        raise InputError(f'{where}: {name} is of the split {of.split} and of {split}')
    return of


def _check_split(split, where):
    if split not in SPLITS:
        raise InputError(f'{where}: the split "{split}" is none of {", ".join(SPLITS)}')


def _checked(caption, where):
    if len(caption) > _LETTERS:
        raise InputError(f'{where}: a caption of {len(caption):,} letters; at most {_LETTERS:,} are taken')
    return caption
