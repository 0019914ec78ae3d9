"""Reads the captions of images from files in the formats in which people keep them, and matches them to images."""
from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

from chainer_caption.data.caption_columns import CAPTIONS, Columns, filled, is_id, is_image_name, name_of, split_of
from chainer_caption.data.caption_files import ORPHAN, Path, Problem, Say, list_of_text, read_records, read_utf8
from chainer_caption.errors import InputError
from chainer_caption.features.folders import find_by_name
from chainer_caption.storage.files import escapes_root

# Bytes of a file with one image's captions and letters of a caption at most: Unicode normalization takes their square.
_SIDECAR, _LETTERS = 2 ** 20, 10_000

#: Suffixes of files with one image's captions, the first that exists counts, and names of files with all images'.
SIDECARS = '.txt', '.caption'
_IN_FOLDERS = 'metadata.jsonl', 'metadata.csv', 'captions.txt', 'captions.csv', 'captions.json', 'captions.jsonl'

# Reasons that do not make a file unsound.
_EMPTY, _REJECTED = 'has no caption', 'is marked as rejected'


@dataclasses.dataclass
class ImageCaptions:
    """What a file records of one image."""
    captions: list[str] = dataclasses.field(default_factory=list)       #: as they were written
    split: str | None = None                            #: one of `captions.SPLITS`, where the file gives it
    coco_id: int | None = None                          #: its id in COCO
    #: The words of each caption, None where the file does not give them.
    tokens: list[list[str] | None] = dataclasses.field(default_factory=list)

    def join(self, other: ImageCaptions, where: str) -> None:
        """Adds what another record has of the same image; another split is an `InputError`."""
        if other.split is not None and self.split not in (None, other.split):
            raise InputError(f'{where}: is of the split {self.split} and of {other.split}')
        self.captions += other.captions
        self.tokens += other.tokens
        self.split = self.split or other.split
        self.coco_id = other.coco_id if self.coco_id is None else self.coco_id


@dataclasses.dataclass(frozen=True)
class Row:
    """A record of a caption file."""
    where: str                                          #: the file and the place in it
    problem: str | None = None                          #: why it has no caption
    name: str | None = None                             #: the image's name
    image_id: int | None = None                         #: the image's id
    rank: int = 1                                       #: the place among several rows of the image, 1 for the best
    finished: bool | None = None                        #: whether the first caption ended with `</S>`, if known
    content: ImageCaptions = dataclasses.field(default_factory=ImageCaptions)


def read_caption_file(path: Path, images: Iterable[str] = (), say: Say = lambda line: None) -> dict[str, ImageCaptions]:
    """Reads captions: those of each image, by the name that the file has for it.

    The file is in any format that is known by its content, in UTF-8, UTF-16 or cp1252:

    - a table (CSV, TSV; delimited by commas, semicolons, tabs or pipes) with a column for the image and one or several
      for its captions, named as in `caption_columns`, perhaps one for the split; without a header where values show
      which is which (Flickr's `*.token.txt`: `name.jpg#0`, a tab, the caption);
    - JSON or JSON lines of objects with such fields (`metadata.jsonl`, LAVIS, LLaVA, neuraltalk2, AI Challenger),
      `{name: caption, captions or object}`, `{split: …}`, `{column: values}`;
    - COCO's annotations (`images` with `id` and `file_name`, `annotations` with `image_id` and `caption`);
    - Karpathy's splits (`images` with `filename`, `filepath`, `split` and `sentences`);
    - what `generate` writes: text, JSON lines, CSV, metadata.jsonl.

    Args:
        path: The file; or a folder with a `.txt` or `.caption` for each image, at its place, with a caption a line, or
            with a `metadata.jsonl`, `metadata.csv` or `captions.*`.
        images: The images that the captions may be of, as paths relative to their folder. A folder needs them; a file
            may need them to tell names from other columns.
        say: Takes notices of what is skipped, a line each.

    Raises:
        InputError: The file cannot be read, half of its records are unsound, or no record has a caption.
    """
    if os.path.isdir(path):
        return _read_folder(path, list(images), say)
    found: dict[str, ImageCaptions] = {}
    passed: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    count = 0
    for row in read_rows(path, images, say)[1]:
        count += 1
        if row.problem is None:
            name = row.name or str(row.image_id)
            found.setdefault(name, ImageCaptions()).join(row.content, f'{row.where}: {name}')
        else:
            reason = _EMPTY if row.problem.startswith(_EMPTY) else row.problem
            passed[reason] += 1
            first.setdefault(reason, f'{row.where} {row.problem}')
    unsound = [reason for reason in passed if reason not in (_EMPTY, _REJECTED, ORPHAN)]
    if not found or 2 * sum(passed[reason] for reason in unsound) >= count > 0:
        raise InputError(first[unsound[0]] if unsound else f'{path}: no captions in it' + ''.join(
            f'; {line.removeprefix(f"{path}: ")}' for line in list(first.values())[:1]))
    if passed:
        listed = '; '.join(f'{first[reason].removeprefix(f"{path}: ")} (in all {times:,})' for reason, times
                           in passed.most_common(3))
        say(f'{path}: {passed.total():,} of {count:,} records are skipped: {listed}')
    return found


def read_rows(path: Path, images: Iterable[str] = (), say: Say = lambda line: None,
              empty: bool = False) -> tuple[bool, Iterator[Row]]:
    """Reads a caption file, but no folder, record by record; `path`, `images` and `say` as for `read_caption_file`.

    With `empty` an empty caption is one, as it is of a model's. Returns whether the file is one JSON list, and its
    rows. An `InputError` means that the file cannot be read, or has no columns of names and captions.
    """
    paths = {path for name in images for path in (name, os.path.basename(name))}
    known = paths | {os.path.splitext(path)[0] for path in paths}
    is_list, columns, records = read_records(path, known, say)
    return is_list, (_row(where, record, columns, empty) for where, record in records)


def _row(where: str, record: Any, columns: Columns, empty: bool) -> Row:
    name, image_id, problem = None, None, None
    try:
        if isinstance(record, Problem):
            raise _UnsoundError(record)
        if not isinstance(record, dict):
            raise _UnsoundError('is no object with an image and a caption')
        name, image_id = _names(record, columns)
        content, finished = _content(record, columns, empty)
    except _UnsoundError as e:
        return Row(where, str(e), name, image_id)
    split = filled(record.get('split' if columns.split is None else columns.split))
    content.split = split_of(split)
    if split is not None and content.split is None:
        raise InputError(f'{where}: the split "{split}" is none of train, restval, val, test')
    if record.get('is_rejected') in (True, 'true', 'True'):
        problem = _REJECTED
    elif (error := record.get('error') or record.get('skipped')) or not content.captions:
        problem = f'{_EMPTY} of {name or image_id}' + (f' ({error})' if error else '')
    rank = name_of(record.get('rank'))
    return Row(where, problem, name, image_id, int(rank) if rank and rank.isdecimal() else 1, finished, content)


class _UnsoundError(Exception):
    """What is wrong with a record."""


def _names(record: dict[str, Any], columns: Columns) -> tuple[str | None, int | None]:
    """The name and the id of a record's image."""
    name, image_id = None, None
    for key in columns.names:
        value = filled(record.get(key))
        text = name_of(value)
        if value is None or (is_id(key) and image_id is not None):
            continue
        if is_id(key):
            if text is None:
                raise _UnsoundError(f'has a {key} that is no name and no whole number: {value!r}')
            image_id = int(text) if text.isdecimal() else None
        if text and name is None and (not is_id(key) or isinstance(value, str)):
            name = re.sub(r'(?<=\w)(?:#\w+)?#\d+$', '', text)
    if not name and image_id is None:
        raise _UnsoundError(f'names no image by {" or ".join(map(repr, columns.names))}')
    folder = record.get('filepath')
    if name and 'filename' in record and isinstance(folder, str) and not is_image_name(folder):
        name = posixpath.join(folder, name)             # Karpathy's
    return name, image_id


def _content(record: dict[str, Any], columns: Columns, empty: bool) -> tuple[ImageCaptions, bool | None]:
    """The captions of a record, and whether the first ended with `</S>`."""
    content, finished = ImageCaptions(), record.get('finished')
    if isinstance(record.get('cocoid'), int):
        content.coco_id = record['cocoid']
    groups = ([value for value in map(record.get, group) if (value if empty else filled(value)) is not None]
              for group in columns.captions)
    for item in itertools.chain.from_iterable(map(_items, next(filter(None, groups), []))):
        text, tokens = _text(item), _tokens(item)
        if text is None and tokens is not None:
            text = ' '.join(tokens)
        if text is None and filled(item) is not None:
            raise _UnsoundError(f'has a caption that is no text: {str(item)[:80]}')
        if text is None or not (empty or filled(text)):
            continue
        if len(text) > _LETTERS:
            raise _UnsoundError(f'has a caption of {len(text):,} letters; at most {_LETTERS:,} are taken')
        if not content.captions and isinstance(item, dict):
            finished = item.get('finished', finished)
        content.captions.append(text)
        content.tokens.append(tokens)
    return content, {'true': True, 'false': False}.get(str(finished).casefold())


def _items(value: Any) -> Iterator[Any]:
    """The captions of a field: texts, objects with texts, or the first answer of a conversation."""
    if isinstance(value, str):
        yield from list_of_text(value) if value.startswith('[') and len(value) <= 10 * _LETTERS else [value]
    elif isinstance(value, list):
        speakers = [item.get('from', item.get('role')) if isinstance(item, dict) else None for item in value]
        turns = [item for item, speaker in zip(value, speakers, strict=True)
                 if speaker in ('gpt', 'assistant', 'model', 'bot', 'chatgpt')]
        yield from turns[:1] if any(isinstance(speaker, str) for speaker in speakers) else value
    else:
        yield value


def _text(item: Any) -> str | None:
    if isinstance(item, dict):
        item = next((item[key] for key in CAPTIONS if isinstance(item.get(key), str | list)), None)
    if isinstance(item, list) and len(item) == 1:
        return _text(item[0])
    return item if isinstance(item, str) else None


def _tokens(item: Any) -> list[str] | None:
    tokens = item.get('tokens') if isinstance(item, dict) else None
    return tokens if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens) else None


def _read_folder(folder: Path, images: list[str], say: Say) -> dict[str, ImageCaptions]:
    """Reads the captions of images from files under their names, with a caption a line."""
    found: dict[str, ImageCaptions] = {}
    of_file: dict[str, str] = {}
    for image in images:
        names = (base + suffix for base in (image, os.path.splitext(image)[0]) for suffix in SIDECARS)
        name = next((name for name in names if os.path.lexists(os.path.join(folder, name))), None)
        if name is None:
            continue
        path = os.path.join(folder, name)
        if name in of_file:
            raise InputError(f'{path}: could be of {of_file[name]} and of {image}; rename one of them, or name the '
                             f'files {of_file[name]}{SIDECARS[0]} and {image}{SIDECARS[0]}')
        of_file[name] = image
        if escapes_root(path, folder):
            raise InputError(f'{path}: a link leads out of {folder}; copy the file there')
        lines = re.split('\r\n|\r|\n', read_utf8(path, say, _SIDECAR).decode())
        captions = [caption for line in lines if (caption := line.strip())]
        if any(len(caption) > _LETTERS for caption in captions):
            raise InputError(f'{path}: a caption of more than {_LETTERS:,} letters')
        found[image] = ImageCaptions(captions, tokens=[None] * len(captions))
    empty = sum(not content.captions for content in found.values())
    if found and empty == len(found):
        raise InputError(f'{folder}: all {empty:,} files with captions ({next(iter(of_file))}, …) are empty')
    if empty:
        say(f'{folder}: {empty:,} files with captions are empty')
    for name in _IN_FOLDERS:
        path = os.path.join(folder, name)
        if not found and os.path.isfile(path) and not escapes_root(path, folder):
            return read_caption_file(path, images, say)
    if not found:
        raise InputError(f'{folder}: no captions of the images; expected a .txt or .caption under each image\'s name, '
                         f'or one of {", ".join(_IN_FOLDERS)}')
    return found


def match_images(wanted: Iterable[str], images: Iterable[str]) -> dict[str, str]:
    """Matches names in a caption file to images, paths relative to their folder: wanted name to image, where found.

    URLs count by their path, Windows' paths by their parts. A name without a suffix, or COCO's number in place of a
    name, matches where only one image has it. What remains is matched by `find_by_name`. Several spellings of one
    path have the same image.
    """
    images = set(images)
    spelled = {name: name if name in images else _spelling(name) for name in wanted}
    names = dict.fromkeys(spelled.values())
    found = find_by_name(names, images)
    if left := [name for name in names if name not in found and not is_image_name(name)]:
        stems: dict[str, set[str]] = collections.defaultdict(set)
        for image in images:
            stem = os.path.splitext(image)[0]
            stems[stem].add(image)
            if number := re.search(r'(?:^|[/_])(?=\d{12}$)0*(\d+)$', stem):
                stems[number[1]].add(image)
        only = {stem: image for stem, (image, *others) in stems.items() if not others}
        found |= {name: only[stem] for name, stem in find_by_name(left, only).items()}
    # Names that `find_by_name` leaves out because another spelling of them has the image.
    ends: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for name, image in found.items():
        plain = _simplified(name)
        ends[posixpath.basename(plain)][plain] = image
    for name in names.keys() - found.keys():
        plain = _simplified(name)
        alike = {image for other, image in ends[posixpath.basename(plain)].items()
                 if plain.endswith(other) or other.endswith(plain)}
        if len(alike) == 1:
            found[name] = alike.pop()
    return {name: found[spelling] for name, spelling in spelled.items() if spelling in found}


def _spelling(name: str) -> str:
    """A name as a relative path with slashes and without a URL's host, query and escapes."""
    if re.match(r'[A-Za-z][A-Za-z0-9+.-]+://', name):
        return urllib.parse.unquote(re.split('[?#]', name.split('://', 1)[1])[0])
    return posixpath.normpath(re.sub(r'^[A-Za-z]:(?=[\\/])', '', name).replace('\\', '/'))


def _simplified(name: str) -> str:
    return '/' + posixpath.normpath(unicodedata.normalize('NFC', name)).casefold()
