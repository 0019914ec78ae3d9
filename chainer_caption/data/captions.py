"""The captions of a dataset: `dataset.json`, checked, as a few flat arrays."""
from __future__ import annotations

import array
import contextlib
import dataclasses
import gc
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import parse_json, read_json, unreadable, write_npz
from chainer_caption.storage.legacy import current_keys

SPLITS = ('train', 'restval', 'val', 'test')

#: Tokenizers, by their names in `dataset.json` and `config.json`; see `data.tokenization`.
TOKENIZERS = 'words', 'characters', 'katakana'

# Bytes of a dataset.json at most, seven times those of MS COCO's.
_LARGEST = 2 ** 30


@dataclasses.dataclass
class Captions:
    """Every sentence of a dataset, as tokens, with its image.

    Attributes:
        filenames: The images' file names.
        image_ids: Their `imgid`, which is their row in the feature file, (images,) int64.
        coco_ids: Their `cocoid`, -1 where there is none, (images,) int64.
        splits: The index of their split in SPLITS, (images,) int8.
        sentences: Image i has sentences[i] to sentences[i + 1], (images + 1,) int64.
        bounds: Sentence j has tokens[bounds[j]:bounds[j + 1]], (sentences + 1,) int64.
        tokens: Indices into `words`, int32.
        words: Every distinct token.
        digest: SHA-256 of the file.
        tokenizer: One of TOKENIZERS.
    """
    filenames: list[str]
    image_ids: np.ndarray
    coco_ids: np.ndarray
    splits: np.ndarray
    sentences: np.ndarray
    bounds: np.ndarray
    tokens: np.ndarray
    words: list[str]
    digest: str
    tokenizer: str = 'words'

    def sentence(self, j: int) -> list[str]:
        """The tokens of sentence j."""
        return [self.words[i] for i in self.tokens[self.bounds[j]:self.bounds[j + 1]]]


def read_captions(path: str | os.PathLike) -> Captions:
    """Reads `dataset.json`, from the cache where it has been read before.

    Raises:
        InputError: The file is missing, is no JSON, or is no dataset; the line says where.
    """
    try:
        entry = entry_folder(path) / 'captions.npz'
    except OSError as e:
        raise unreadable(path, e) from e
    if entry.exists():
        try:
            return _from_arrays(read_npz(entry))
        except (InputError, KeyError, ValueError, TypeError):
            pass                                        # a damaged entry is made again
    with _collector_off():
        captions = _parse(path)
    if prepare_entry(entry.parent, path):
        with contextlib.suppress(OSError):              # a full disk costs the next start some seconds, no more
            write_npz(entry, _to_arrays(captions), durable=False)
    return captions


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Turns the garbage collector off: its search for cycles among millions of objects takes as long as parsing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _parse(path: str | os.PathLike) -> Captions:
    path = pathlib.Path(path)
    data = current_keys(read_json(path, _LARGEST, deep=True))
    images = data.get('images') if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise InputError(f'{path}: no list "images"; a dataset\'s dataset.json has one')
    words, tokens, lengths, sentences = _Numbers(), array.array('i'), [], [0]
    filenames, ids, coco_ids, splits = [], [], [], []
    for i, image in enumerate(images):
        filename, image_id, coco_id, split = _image(image, f'{path}: images[{i}]')
        filenames.append(filename)
        ids.append(image_id)
        coco_ids.append(coco_id)
        splits.append(split)
        for j, sentence in enumerate(_field(image, 'sentences', list, f'{path}: images[{i}]')):
            where = f'{path}: images[{i}].sentences[{j}]'
            if not isinstance(sentence, dict):
                raise InputError(f'{where} is no object with "tokens"')
            own = _field(sentence, 'tokens', list, where)
            known = len(words)
            try:
                tokens.extend(map(words.__getitem__, own))
                sound = len(words) == known or all(isinstance(token, str) for token in own)
            except TypeError:                           # a list or an object cannot be numbered
                sound = False
            if not sound:
                token = next(token for token in own if not isinstance(token, str))
                shown = '' if isinstance(token, list | dict) else f' {token!r}'
                raise InputError(f'{where}: the token{shown} is no string')
            lengths.append(len(own))
        sentences.append(len(lengths))
    image_ids = np.array(ids, np.int64)
    distinct, counts = np.unique(image_ids, return_counts=True)
    if len(distinct) < len(image_ids):
        raise InputError(f'{path}: two images have the imgid {distinct[counts > 1][0]}; each needs its own row of '
                         'features')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Captions(filenames, image_ids, np.array(coco_ids, np.int64), np.array(splits, np.int8),
                    np.array(sentences, np.int64), np.cumsum([0, *lengths], dtype=np.int64),
                    np.array(tokens, np.int32), list(words), digest, checked_tokenizer(data, path))


def checked_tokenizer(record: dict[str, Any], path: str | os.PathLike) -> str:
    """The `tokenizer` that a JSON object records, or `words`.

    Raises:
        InputError: It is none of TOKENIZERS; the line names the file at `path`.
    """
    tokenizer = record.get('tokenizer', 'words')
    if tokenizer not in TOKENIZERS:
        raise InputError(f'{path}: "tokenizer" should be {" or ".join(TOKENIZERS)}, not {tokenizer!r}')
    return tokenizer


class _Numbers(dict):
    """Numbers its keys in the order of their first look-up."""

    def __missing__(self, key: str) -> int:
        self[key] = number = len(self)
        return number


def _field(record: dict, key: str, kind: type, where: str) -> Any:
    value = record.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {list: 'list', str: 'string', int: 'whole number'}[kind]
        raise InputError(f'{where} has no {name} "{key}"')
    return value


def _image(image: Any, where: str) -> tuple[str, int, int, int]:
    if not isinstance(image, dict):
        raise InputError(f'{where} is no object')
    split = _field(image, 'split', str, where)
    if split not in SPLITS:
        raise InputError(f'{where}: the split "{split}" is none of {", ".join(SPLITS)}')
    image_id = _field(image, 'imgid', int, where)
    if not 0 <= image_id < 2 ** 62:
        raise InputError(f'{where}: the imgid {image_id} is no row of a matrix')
    coco_id = image.get('cocoid')
    coco_id = coco_id if isinstance(coco_id, int) and 0 <= coco_id < 2 ** 62 else -1
    return _field(image, 'filename', str, where), image_id, coco_id, SPLITS.index(split)


_ARRAYS = ('image_ids', 'coco_ids', 'splits', 'sentences', 'bounds', 'tokens')
_STRINGS = ('filenames', 'words')                       # in the cache, lists of strings are bytes of JSON


def _to_arrays(captions: Captions) -> dict[str, np.ndarray]:
    return {**{name: getattr(captions, name) for name in _ARRAYS},
            **{name: np.frombuffer(json.dumps(getattr(captions, name)).encode(), np.uint8) for name in _STRINGS},
            'digest': np.array(captions.digest), 'tokenizer': np.array(captions.tokenizer)}


def _from_arrays(arrays: dict[str, np.ndarray]) -> Captions:
    values: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
    for name in _STRINGS:
        values[name] = parse_json(arrays[name].tobytes(), deep=True)
        if not isinstance(values[name], list) or not all(isinstance(text, str) for text in values[name]):
            raise ValueError(f'{name} are damaged')
    captions = Captions(digest=str(arrays['digest']), tokenizer=str(arrays['tokenizer']), **values)
    if captions.tokenizer not in TOKENIZERS:
        raise ValueError('the tokenizer is damaged')
    images, sentences = len(captions.filenames), len(captions.bounds) - 1
    for name, length, least, limit in (
            ('image_ids', images, 0, 2 ** 62), ('coco_ids', images, -1, 2 ** 62),
            ('splits', images, 0, len(SPLITS)), ('tokens', len(captions.tokens), 0, len(captions.words)),
            ('sentences', images + 1, 0, sentences + 1), ('bounds', sentences + 1, 0, len(captions.tokens) + 1)):
        array = arrays[name]
        if array.shape != (length,) or array.dtype.kind != 'i' or \
                (length and not least <= array.min() <= array.max() < limit):
            raise ValueError(f'{name} are damaged')
    for bounds, end in ((captions.sentences, sentences), (captions.bounds, len(captions.tokens))):
        if bounds[0] != 0 or bounds[-1] != end or (np.diff(bounds) < 0).any():
            raise ValueError('bounds are damaged')
    return captions
