"""The captions of a dataset: `dataset.json`, checked, as a few flat arrays."""
import array
import collections
import contextlib
import dataclasses
import gc
import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import read_npz, reject_if
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import Path, parse_json, read_json, unreadable, write_npz
from chainer_caption.storage.legacy import current_keys

SPLITS = ('train', 'restval', 'val', 'test')

#: Tokenizers, by their names in `dataset.json` and `config.json`; see `data.tokenization`.
TOKENIZERS = 'words', 'characters', 'katakana'
_LARGEST = 2 ** 30              # bytes of a dataset.json, seven times those of MS COCO's
# In the cache, lists of strings are bytes of JSON.
_ARRAYS, _STRINGS = ('image_ids', 'coco_ids', 'splits', 'sentences', 'bounds', 'tokens'), ('filenames', 'words')


@dataclasses.dataclass
class Captions:
    """Every sentence of a dataset, as tokens, with its image."""
    filenames: list[str]        #: of the images
    image_ids: np.ndarray       #: their `imgid`, which is their row in the feature file, (images,) int64
    coco_ids: np.ndarray        #: their `cocoid`, -1 where there is none, (images,) int64
    splits: np.ndarray          #: the index of their split in SPLITS, or -1 for none, (images,) int8
    sentences: np.ndarray       #: image i has sentences[i] to sentences[i + 1], (images + 1,) int64
    bounds: np.ndarray          #: sentence j has tokens[bounds[j]:bounds[j + 1]], (sentences + 1,) int64
    tokens: np.ndarray          #: indices into `words`, int32
    words: list[str]            #: every distinct token
    digest: str                 #: SHA-256 of the file
    tokenizer: str = 'words'    #: one of TOKENIZERS

    def in_splits(self, splits: Iterable[str]) -> np.ndarray:
        """Whether each image is of one of some splits, (images,) bool."""
        return np.isin(self.splits, [SPLITS.index(split) for split in splits])

    def images(self) -> np.ndarray:
        """The image of each sentence, (sentences,) int."""
        return np.repeat(np.arange(len(self.filenames)), np.diff(self.sentences))

    def sentence(self, j: int) -> list[str]:
        """The tokens of sentence j."""
        return [self.words[i] for i in self.tokens[self.bounds[j]:self.bounds[j + 1]]]


def read_captions(path: Path) -> Captions:
    """Reads `dataset.json`, from the cache where it has been read before. Raises InputError, which says where, if the
    file is missing, is no JSON, or is no dataset."""
    try:
        entry = entry_folder(path) / 'captions.npz'
    except OSError as e:
        raise unreadable(path, e) from e
    if entry.exists():
        with contextlib.suppress(KeyError, ValueError, TypeError):      # a damaged entry is made again
            return _from_arrays(read_npz(entry))
    was_on = gc.isenabled()
    gc.disable()        # the garbage collector's search for cycles among millions of objects takes as long as parsing
    try:
        captions = _parse(path)
    finally:
        if was_on:
            gc.enable()
    if prepare_entry(entry.parent, path):
        with contextlib.suppress(OSError):              # a full disk costs the next start some seconds, no more
            write_npz(entry, _to_arrays(captions), durable=False)
    return captions


def _parse(path: Path) -> Captions:
    path = pathlib.Path(path)
    data = current_keys(read_json(path, _LARGEST, deep=True))
    images = data.get('images') if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise InputError(f'{path}: no list "images"; a dataset\'s dataset.json has one')
    words: Any = collections.defaultdict()
    words.default_factory = words.__len__               # numbers its keys in the order of their first look-up
    tokens, lengths, sentences = array.array('i'), [], [0]
    columns: tuple[list, ...] = [], [], [], []
    for i, image in enumerate(images):
        for column, value in zip(columns, _image(image, f'{path}: images[{i}]'), strict=True):
            column.append(value)
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
    filenames, ids, coco_ids, splits = columns
    image_ids = np.array(ids, np.int64)
    distinct, counts = np.unique(image_ids, return_counts=True)
    if len(distinct) < len(image_ids):
        raise InputError(f'{path}: two images have the imgid {distinct[counts > 1][0]}; each needs its own row of '
                         'features')
    return Captions(filenames, image_ids, np.array(coco_ids, np.int64), np.array(splits, np.int8),
                    np.array(sentences, np.int64), np.cumsum([0, *lengths], dtype=np.int64), np.array(tokens, np.int32),
                    list(words), hashlib.sha256(path.read_bytes()).hexdigest(), checked_tokenizer(data, path))


def checked_tokenizer(record: dict[str, Any], path: Path) -> str:
    """The `tokenizer` that a JSON object records, or `words`; raises InputError if it is none of TOKENIZERS."""
    tokenizer = record.get('tokenizer', 'words')
    if tokenizer not in TOKENIZERS:
        raise InputError(f'{path}: "tokenizer" should be {" or ".join(TOKENIZERS)}, not {tokenizer!r}')
    return tokenizer


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
    coco_id = found if isinstance(found := image.get('cocoid'), int) and 0 <= found < 2 ** 62 else -1
    return _field(image, 'filename', str, where), image_id, coco_id, SPLITS.index(split)


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
    reject_if(captions.tokenizer not in TOKENIZERS, 'the tokenizer is damaged')
    images, sentences = len(captions.filenames), len(captions.bounds) - 1
    for name, length, least, limit in (
            ('image_ids', images, 0, 2 ** 62), ('coco_ids', images, -1, 2 ** 62),
            ('splits', images, 0, len(SPLITS)), ('tokens', len(captions.tokens), 0, len(captions.words)),
            ('sentences', images + 1, 0, sentences + 1), ('bounds', sentences + 1, 0, len(captions.tokens) + 1)):
        array = arrays[name]
        reject_if(array.shape != (length,) or array.dtype.kind != 'i' or
                  (length and not least <= array.min() <= array.max() < limit), f'{name} are damaged')
    for bounds, end in ((captions.sentences, sentences), (captions.bounds, len(captions.tokens))):
        reject_if(bounds[0] != 0 or bounds[-1] != end or (np.diff(bounds) < 0).any(), 'bounds are damaged')
    return captions
