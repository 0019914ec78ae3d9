"""Names of columns, fields and splits in caption files, and how to tell columns apart by their values.

Names are compared without case, spaces, underscores and hyphens; the columns of captions may be numbered or in the
plural (`caption_0`, `Captions`).
"""
from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from chainer_caption.features.folders import SUFFIXES

#: Columns that name the image, the most telling first.
NAMES = ('filename image_file_name image_name image_path image_file file_path file path image images img '
         'img_name img_path img_file picture photo photo_name name local_path relative_path '
         'image_url img_url url coco_url image_id img_id imgid photo_id id key uid').replace('_', '').split()

#: Columns that may hold a number in place of a name.
IDS = frozenset(('imageid', 'imgid', 'photoid', 'id', 'key', 'uid', 'cocoid'))

#: Columns with captions, the most telling first.
CAPTIONS = ('caption sentence raw text description comment reference reference_str caption_str prompt title '
            'alt_text alt annotation txt generated_caption blip_caption conversation message value content '
            'answer summary').replace('_', '').split()

SPLIT_COLUMNS = 'split', 'set', 'subset', 'partition', 'setname', 'phase'

_SPLITS = {alias: split for split, aliases in (
    ('train', 'train training'), ('restval', 'restval'), ('test', 'test testing'),
    ('val', 'val validation valid validate dev development')) for alias in aliases.split()}

_MISSING = frozenset(('', 'nan', 'null', 'none', 'n/a', '#n/a', '<na>', '\\n'))

#: A regular expression for the suffix of an image's name.
SUFFIX = r'\.(?:' + '|'.join(sorted((suffix[1:] for suffix in SUFFIXES), key=len, reverse=True)) + ')'
_IMAGE = re.compile(rf'[^\n]*{SUFFIX}(?:[#?]\S*)?', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of a file mean."""
    names: tuple[str, ...] = ()                         #: those that name the image; the first with a value counts
    captions: tuple[tuple[str, ...], ...] = ()          #: groups with captions; the first group with a value counts
    split: str | None = None


def find_columns(sample: Sequence[Mapping[str, Any]], images: Container[str] = (), header: bool = True) -> Columns:
    """Finds what the columns of some records mean, by their names and then by their values.

    `images` are names that are known to be images. Columns without a `header` have numbers for keys.
    """
    keys = {key: _plain(key) if header else '' for record in sample for key in record if isinstance(key, str)}
    # A list under "image" may be of many, and what is a list under "captions" is of one.
    filled_in = {key: [value for record in sample if (value := filled(record.get(key))) is not None] for key in keys}
    looks = {key for key in keys if _mostly(filled_in[key], lambda value: is_image_name(name_of(value), images))}

    def doubt(key: str) -> tuple[int, int]:
        known = _mostly(filled_in[key], lambda value: name_of(value) in images)
        url = _mostly(filled_in[key], lambda value: isinstance(value, str) and '://' in value)
        return (0 if known else 3 if url else 1 if key in looks else 4 if keys[key] in IDS else 2,
                NAMES.index(keys[key]) if keys[key] in NAMES else len(NAMES))

    names = sorted((key for key, plain in keys.items() if key in looks or plain in NAMES), key=doubt)
    named = [key for plain in SPLIT_COLUMNS for key in keys if keys[key] == plain and (
        plain == 'split' or _mostly(filled_in[key], split_of))]
    split = next((key for key in (named if header else keys)
                  if header or (filled_in[key] and all(map(split_of, filled_in[key])))), None)
    groups: dict[str, list[str]] = {}
    for key, plain in keys.items():
        if (base := re.sub(r's?\d*$', '', plain)) in CAPTIONS and key not in looks:
            groups.setdefault(base, []).append(key)
    captions = [tuple(groups[base]) for base in CAPTIONS if base in groups]
    if not captions and names:
        two = not header and len(keys) == 2
        texts = [key for key, plain in keys.items() if key not in looks and key != split and plain not in IDS
                 and key != names[0] and _mostly(filled_in[key], lambda value: _is_text(value, two))]
        captions = [(texts[0],)] if len(texts) == 1 else []
    return Columns(tuple(names), tuple(captions), split)


def filled(value: Any) -> Any:
    """A value, or None where it is missing: empty, NaN, null and what tables have for these."""
    if isinstance(value, str):
        return None if (len(value) < 9 and value.strip().casefold() in _MISSING) or not value.strip() else value
    return None if isinstance(value, float) and math.isnan(value) else value


def name_of(value: Any) -> str | None:
    """The name of an image in a field: text, a number, a list of one of these, or an object with a field for it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        plain = {_plain(key): each for key, each in value.items()}
        value = next((plain[key] for key in NAMES if filled(plain.get(key)) is not None), None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    # A table that was exported from Hugging Face's datasets spells an object.
    spelled = re.match(r"\{.*'path': '([^']+)'", value) if isinstance(value, str) and value[:1] == '{' else None
    return spelled[1] if spelled else str(value).strip()


def is_image_name(name: str | None, images: Container[str] = ()) -> bool:
    """Whether text is the name of an image: by its suffix, or because it is known."""
    return name is not None and (_IMAGE.fullmatch(name) is not None or name in images)


def is_id(column: str) -> bool:
    """Whether a column's name means that a number in it is an image's id."""
    return _plain(column) in IDS


def split_of(value: Any) -> str | None:
    """One of `captions.SPLITS` for what a file calls a split; None for anything else."""
    plain = re.sub(r'[\s_-]*(?:set|split|20\d\d)$', '', value.strip().casefold()) if isinstance(value, str) else ''
    return _SPLITS.get(plain)


@functools.lru_cache(1024)
def _plain(key: str) -> str:
    return re.sub(r'[\W_]+', '', key).casefold()


def _mostly(values: Sequence[Any], test: Callable[[Any], Any]) -> bool:
    return 2 * sum(map(bool, map(test, values))) > len(values)


def _is_text(value: Any, single_words: bool) -> bool:
    """Whether a cell is a caption: words, or letters of a language without spaces."""
    return isinstance(value, str) and any(map(str.isalpha, value)) and (
        single_words or len(value.split()) > 1 or not value.isascii())
