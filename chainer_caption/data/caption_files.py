"""Decodes caption files into records: a dict for each image or caption, whatever the format.

Only the file itself is opened. `caption_columns` tells what the fields of a record mean.
"""
from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

from chainer_caption.data.caption_columns import SUFFIX, Columns, find_columns, is_image_name, name_of, split_of
from chainer_caption.errors import InputError
from chainer_caption.storage.files import decode_json, open_regular, parse_json, unreadable

Say = Callable[[str], object]
Path = str | os.PathLike[str]

#: Where a record is, and the record, or the `Problem` that there is none.
Record = tuple[str, Any]

# Bytes of a file and of a line of JSON at most; records that columns are told by; lines that a quoted cell may have.
_LARGEST, _LINE, _SAMPLE, _SPAN = 2 ** 30, 2 ** 24, 100, 30

_DELIMITERS = '\t|;,'
_DIALECTS: tuple[dict[str, Any], ...] = {}, {'skipinitialspace': True}, {'escapechar': '\\', 'doublequote': False}
_NAMED_LINE = re.compile(rf'"?(.+?{SUFFIX})(?:(?:#\w+)?#\d+)?"?\s*(?:[:=]|[-=]>)?\s+(\S.*)', re.IGNORECASE)

# Beginnings of workbooks and databases that people mean by "a table".
_BINARY = {b'PK\x03\x04': 'an archive or an Excel workbook', b'\xd0\xcf\x11\xe0': 'an Excel workbook',
           b'PAR1': 'a Parquet file', b'\x89PNG': 'an image', b'\xff\xd8\xff': 'an image'}


class Problem(str):
    """The reason why there is no record."""


#: The reason why an annotation has no record.
ORPHAN = 'is of an image that the file does not list'


def read_records(path: Path, images: Container[str], say: Say) -> tuple[bool, Columns, Iterator[Record]]:
    """Decodes a caption file: whether it is one JSON list, what its columns mean, and its records.

    `images` are names that are known to be images, with and without suffix. An `InputError` means that the file cannot
    be read, or has no columns of names and of captions; the line lists what it has.
    """
    data = read_utf8(path, say)
    if not data.strip():
        raise InputError(f'{path}: no captions in it, the file is empty')
    is_list = False
    if data.lstrip()[:1] in (b'{', b'['):
        records, is_list = _json(path, data, images)
    elif data.startswith(b'# '):
        records = _text_output(path, data.decode())
    else:
        return is_list, *_table(path, re.split('\r\n|\r|\n', data.decode()), images)
    sample = list(itertools.islice(records, _SAMPLE))
    objects = [record for _, record in sample if isinstance(record, dict)]
    columns = find_columns(objects, images)
    if objects and not (columns.names and columns.captions):
        raise unknown(path, dict.fromkeys(itertools.chain.from_iterable(objects)), columns)
    return is_list, columns, itertools.chain(sample, records)


def unknown(path: Path, found: Iterable[str], columns: Columns) -> InputError:
    """An InputError for a file without names or captions that lists the columns found."""
    missing = ' or '.join(['image names'] * (not columns.names) + ['captions'] * (not columns.captions))
    listed = ', '.join(itertools.islice(map(repr, found), 20)) or 'none'
    return InputError(f'{path}: no column of {missing}; the columns are {listed}; expected one for the '
                      'image (filename, image, file_name, …) and one for its caption (caption, text, sentence, …)')


def read_utf8(path: Path, say: Say, limit: int = _LARGEST) -> bytes:
    """The content of a text file in UTF-8 without its mark; UTF-16 and Windows' cp1252 are converted.

    An `InputError` means that it cannot be read, is larger than `limit` bytes, or is in another encoding.
    """
    try:
        with open_regular(path) as f:
            size = os.fstat(f.fileno()).st_size
            if size > limit:
                raise InputError(f'{path}: {size:,} bytes are too many for such a file (at most {limit:,})')
            data = f.read(limit + 1)
    except OSError as e:
        raise unreadable(path, e) from e
    for magic, what in _BINARY.items():
        if data.startswith(magic):
            raise InputError(f'{path}: is {what}; save the captions as CSV in UTF-8')
    try:
        if data.startswith((b'\xff\xfe', b'\xfe\xff')) or data[1:80:2].count(0) > len(data[1:80:2]) / 2:
            data = data.decode('utf-16' if data[0] > 0x7f else 'utf-16-le').encode()
        data = data.removeprefix(b'\xef\xbb\xbf')
        data.decode()
        return data
    except UnicodeError as e:
        with contextlib.suppress(UnicodeError):
            text = data.decode('cp1252')
            # Western text has few letters with accents; another encoding's bytes would come out as little else.
            if 8 * sum(char > '\x7f' for char in text) < len(text) or len(text) < 40:
                say(f'{path}: not UTF-8; read as Windows-1252 (cp1252). Save it as UTF-8 if accents are wrong')
                return text.encode()
        raise InputError(f'{path}: not UTF-8; save it as UTF-8') from e


def _json(path: Path, data: bytes, images: Container[str]) -> tuple[Iterator[Record], bool]:
    """The records of JSON or of JSON lines, and whether it is one list."""
    first, _, rest = data.strip().partition(b'\n')
    with contextlib.suppress(ValueError, MemoryError):  # it is the first line of a value that has several
        if rest:
            parse_json(first)
            return _json_lines(path, data), False
    value = decode_json(data, path)
    if isinstance(value, dict):
        columns = find_columns([value], images)
        if columns.names and columns.captions and isinstance(value[columns.names[0]], str | int):
            return iter([(f'{path}: line 1', value)]), False
    return _json_value(path, value, images), isinstance(value, list)


def _json_lines(path: Path, data: bytes) -> Iterator[Record]:
    for number, line in enumerate(data.split(b'\n'), 1):
        if line.strip():
            try:
                value = parse_json(line) if len(line) < _LINE else Problem('is too long')
            except (ValueError, MemoryError) as e:
                value = Problem(f'is no JSON ({e})')
            yield f'{path}: line {number}', value


def _json_value(path: Path, value: Any, images: Container[str], where: str = '', **more: Any) -> Iterator[Record]:
    """The records of a JSON value, each with `more`."""
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        rows = ((i, list(map(str, row)), False) for i, row in enumerate(value))
        yield from _rows(path, rows, images, '')[1]
    elif isinstance(value, list):
        for i, record in enumerate(value):
            yield f'{path}: {where}[{i}]', {**more, **record} if isinstance(record, dict) else record
    elif isinstance(value, dict):
        yield from _json_object(path, value, images, **more)
    else:
        raise InputError(f'{path}: a JSON {type(value).__name__}, where captions come as a list or an object')


def _json_object(path: Path, value: dict[str, Any], images: Container[str], **more: Any) -> Iterator[Record]:
    annotations = value.get('annotations')
    lists = [key for key, each in value.items() if isinstance(each, list) and each and
             all(isinstance(record, dict) for record in each) and key not in ('licenses', 'categories')]
    if isinstance(annotations, list) and 'images' in lists:
        yield from _coco(path, value['images'], annotations)
    elif value and all(split_of(key) and isinstance(each, list | dict) for key, each in value.items()):
        for key, each in value.items():
            yield from _json_value(path, each, images, key, split=key)
    elif isinstance(value.get('data'), list) and isinstance(value.get('columns'), list):
        yield from _json_value(path, [value['columns'], *value['data']], images)
    elif columns := None if lists else _columnar(value, images):
        for i, cells in enumerate(zip(*columns.values(), strict=True)):
            yield f'{path}: [{i}]', dict(zip(columns, cells, strict=True))
    elif len(lists) == 1 and not is_image_name(lists[0], images):
        yield from _json_value(path, value[lists[0]], images, lists[0], **more)
    elif (not lists and all(isinstance(each, str | list | dict) for each in value.values())) or \
            2 * sum(is_image_name(key, images) for key in value) > len(value):
        for name, each in value.items():
            yield f'{path}: {name!r}', {**more, **(each if isinstance(each, dict) else {'caption': each}),
                                        'filename': name}
    else:
        raise unknown(path, value, Columns())


def _columnar(value: dict[str, Any], images: Container[str]) -> dict[str, list[Any]]:
    """The columns of an object that has a list, or an object by row, for each; nothing if it is another."""
    columns = find_columns([value], images)
    lists = {key: list(each.values()) if isinstance(each, dict) else each for key, each in value.items()
             if isinstance(each, list | dict)}
    needed = (*columns.names[:1], *itertools.chain.from_iterable(columns.captions[:1]))
    counts = {len(lists[key]) if key in lists else -1 for key in needed}
    if not (columns.names and columns.captions) or len(counts) > 1:
        return {}
    return {key: each for key, each in lists.items() if len(each) in counts}


def _coco(path: Path, images: list[Any], annotations: list[Any]) -> Iterator[Record]:
    """The annotations of a file in COCO's layout with the names of their images."""
    found: dict[str | None, tuple[str, Any]] = {}
    for i, image in enumerate(images):
        # Ids are left out, so that they are not taken for names.
        name, key = name_of({key: each for key, each in image.items() if 'id' not in key}), name_of(image.get('id'))
        if name is None or key is None:
            raise InputError(f'{path}: images[{i}] has no "{"id" if name else "file_name"}"; it has '
                             f'{", ".join(map(repr, image)) or "nothing"}')
        if found.setdefault(key, (name, image.get('split')))[0] != name:
            raise InputError(f'{path}: images[{i}]: the id {key} is of {found[key][0]} and of {name}')
    fields = [annotation for annotation in annotations[:_SAMPLE] if isinstance(annotation, dict)]
    if not (columns := find_columns([{'filename': '', **record} for record in fields])).captions:
        raise unknown(path, dict.fromkeys(itertools.chain.from_iterable(fields)), columns)
    for i, annotation in enumerate(annotations):
        where, key = f'{path}: annotations[{i}]', annotation.get('image_id') if isinstance(annotation, dict) else None
        if (key := name_of(key)) in found:
            yield where, {**annotation, 'filename': found[key][0], 'split': found[key][1],
                          'cocoid': int(key) if key and key.isdecimal() else None}
        else:
            yield where, Problem(ORPHAN)


def _text_output(path: Path, text: str) -> Iterator[Record]:
    """The records of `generate --format text`."""
    records: list[Record] = []
    for number, line in enumerate(re.split('\r?\n', text.rstrip('\r\n')), 1):
        if line.startswith('# '):
            name = re.sub(r'\\(?:[nrt\\]|x..|u....|U.{8})', _unescape, line[2:])
            records.append((f'{path}: line {number}', {'filename': name, 'captions': []}))
        elif line.startswith('! '):
            records[-1][1]['error'] = line[2:]
        else:
            records[-1][1]['captions'].append(re.sub(r' \(p=[\d.e-]+\)$', '', line))
    yield from records


def _unescape(match: re.Match[str]) -> str:
    with contextlib.suppress(UnicodeError):
        return match[0].encode('ascii').decode('unicode_escape')
    return match[0]


def _table(path: Path, lines: list[str], images: Container[str]) -> tuple[Columns, Iterator[Record]]:
    """The columns and records of a table whose delimiter is not known, or of lines of a name and a caption."""
    errors = {}
    for delimiter in _DELIMITERS:
        try:
            return _rows(path, _cells(lines, delimiter), images, delimiter)
        except InputError as e:
            errors[delimiter] = e

    def parse(line: str) -> dict[str, str] | None:
        match = _NAMED_LINE.match(line)
        name, caption = (match[1], match[2]) if match else (*line.split(None, 1), '', '')[:2]
        return {'filename': name, 'caption': caption} if match or name in images else None

    sample = [line for line in lines[:_SAMPLE] if line.strip()]
    if 2 * sum(parse(line) is not None for line in sample) <= len(sample):
        likely = max(_DELIMITERS, key=lines[0].count)
        raise errors[likely] if likely in lines[0] else unknown(path, lines[:1], Columns())
    return Columns(('filename',), (('caption',),)), (
        (f'{path}: line {i}', parse(line) or Problem('is not the name of an image and a caption'))
        for i, line in enumerate(lines, 1) if line.strip())


def _rows(path: Path, rows: Iterable[tuple[int, list[str], bool]], images: Container[str],
          delimiter: str) -> tuple[Columns, Iterator[Record]]:
    """The columns and records of a table's rows, which are numbers of lines, cells and whether those were quoted."""
    rows = iter(rows)
    sample = list(itertools.islice(rows, _SAMPLE))
    first = sample[0][1] if sample else []
    header = not any(is_image_name(cell.strip(), images) for cell in first)
    # Without a header the row with the fewest commas in its caption has as many columns as there are.
    widths = [len(first)] if header else [min((len(cells) for _, cells, _ in sample if len(cells) > 1), default=0), 2]
    sample = sample[header:]
    for width in widths:
        cells = [cell.strip() for cell in first[:width]]
        keys = [str(i) if not header else cell + str(i) if cell in cells[:i] else cell for i, cell in enumerate(cells)]
        columns = find_columns([dict.fromkeys(keys), *(dict(zip(keys, cells, strict=False)) for _, cells, _ in sample)],
                               images, header)
        if columns.names and columns.captions and width > 1:
            break
    else:
        raise unknown(path, first if header else [f'column {i}' for i in range(len(first))], columns)
    at = keys.index(columns.captions[0][0]) if len(columns.captions[0]) == 1 else None
    ours = 'log_prob' in keys

    def records() -> Iterator[Record]:
        for number, read, quoted in itertools.chain(sample, rows):
            where, more, cells = f'{path}: line {number}', len(read) - len(keys), read
            if more > 0 and at is not None and not quoted:
                cells = [*read[:at], delimiter.join(read[at:at + more + 1]), *read[at + more + 1:]]
            elif any(cells[len(keys):]) or (at is not None and len(cells) <= at):
                yield where, Problem(f'has {"more" if more > 0 else "fewer"} columns than the first line')
                continue
            # Our CSV has an apostrophe where a spreadsheet would run a formula.
            yield where, dict(zip(keys, [cell[1:] if ours and re.match("'[=+@-]", cell) else cell
                                         for cell in map(str.strip, cells)], strict=False))

    return columns, records()


def _cells(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str], bool]]:
    """The rows of a delimited table, with stray quotes taken as they stand."""
    begins = re.compile(rf'"?[^"{delimiter}]*{SUFFIX}(?:#\d+)?"?\s*[{delimiter}]', re.IGNORECASE)
    at = 0
    while at < len(lines):
        line, end = lines[at], at + 1
        cells = _quoted(line, delimiter) if '"' in line else None
        # A cell that goes on in the next line, unless that is plainly a row of its own.
        while cells is None and line.count('"') % 2 and end < min(len(lines), at + _SPAN) \
                and not begins.match(lines[end]):
            line, end = f'{line}\n{lines[end]}', end + 1
            cells = _quoted(line, delimiter)
        quoted = cells is not None
        if cells is None:
            line, end = lines[at], at + 1
            cells = [cell.strip().strip('"') if cell.count('"') == 1 else cell for cell in line.split(delimiter)]
        if line.strip() and not (at == 0 and re.fullmatch('sep=.', line)):
            yield at + 1, cells, quoted
        at = end


def _quoted(line: str, delimiter: str) -> list[str] | None:
    """The cells of a row with quotes; None where the quotes are not sound."""
    for dialect in _DIALECTS[:3 if '\\"' in line else 2]:
        try:
            row, = csv.reader([line], delimiter=delimiter, strict=True, **dialect)
        except (csv.Error, ValueError):
            continue
        if not any(re.match(' +"', cell) for cell in row):
            return row
    return None


def list_of_text(text: str) -> list[str]:
    """The captions of a cell that spells a list of them, in JSON or in Python; else the text itself."""
    if text[:1] == '[' and text[-1:] == ']':
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            string = r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\""""
            value = [re.sub(r'\\(.)', r'\1', a or b) for a, b in re.findall(string, text)] \
                if re.fullmatch(rf'\[\s*(?:{string})(?:\s*,?\s*(?:{string}))*\s*\]', text) else None
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return value
    return [text]
