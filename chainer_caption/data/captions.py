"""The captions of a dataset: `dataset.json`, checked, as a few flat arrays."""
import array
import contextlib
import dataclasses
import gc
import hashlib
import itertools
import pathlib

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import read_json, unreadable, write_npz
from chainer_caption.storage.legacy import current_keys

SPLITS = ('train', 'restval', 'val', 'test')

#: What captions can be cut into, by the names that `dataset.json` and `config.json` have for it; see `data.units`.
TOKENIZERS = 'words', 'characters', 'katakana'

# Bytes of a dataset.json at most; MS COCO's has a seventh of it.
_LARGEST = 2 ** 30


@dataclasses.dataclass
class Captions:
    """Every sentence of a dataset, tokenised, with the images they describe.

    Attributes:
        filenames (list of str): The images' file names.
        image_ids (numpy.ndarray): Their `imgid`, which is their row in the feature matrix, (images,) int64.
        coco_ids (numpy.ndarray): Their `cocoid`, -1 where there is none, (images,) int64.
        splits (numpy.ndarray): The place of their split in SPLITS, (images,) int8.
        sentences (numpy.ndarray): Image i has sentences[i] to sentences[i + 1], (images + 1,) int64.
        bounds (numpy.ndarray): Sentence j has tokens[bounds[j]:bounds[j + 1]], (sentences + 1,) int64.
        tokens (numpy.ndarray): Places in `words`, int32.
        words (list of str): Every distinct token.
        digest (str): SHA-256 of the file.
        tokenizer (str): What the tokens are, one of TOKENIZERS.
    """
    filenames: list
    image_ids: np.ndarray
    coco_ids: np.ndarray
    splits: np.ndarray
    sentences: np.ndarray
    bounds: np.ndarray
    tokens: np.ndarray
    words: list
    digest: str
    tokenizer: str = 'words'

    def sentence(self, j):
        """The tokens of sentence j, a list of str."""
        return [self.words[i] for i in self.tokens[self.bounds[j]:self.bounds[j + 1]]]


def read_captions(path):
    """Reads `dataset.json`, from the cache where it has been read before.

    Args:
        path (str or os.PathLike): The file.

    Returns:
        Captions: What it holds.

    Raises:
        InputError: The file is missing, is no JSON, or does not hold what a dataset holds; the line says where.
    """
    try:
        entry = entry_folder(path) / 'captions.npz'
    except OSError as e:
        raise unreadable(path, e) from e
    if entry.exists():
        try:
            return _from_arrays(read_npz(entry))
        except (InputError, KeyError, ValueError, TypeError):
            pass                                        # a damaged entry is as good as none
    with _collector_off():
        captions = _parse(path)
    if prepare_entry(entry.parent, path):
        with contextlib.suppress(OSError):              # a full disk costs the next start some seconds, no more
            write_npz(entry, _to_arrays(captions), durable=False)
    return captions


@contextlib.contextmanager
def _collector_off():
    """Millions of objects without a cycle among them: looking for cycles would take as long as making them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _parse(path):
    path = pathlib.Path(path)
    data = current_keys(read_json(path, _LARGEST, deep=True))
    images = data.get('images') if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise InputError(f'{path}: no list "images"; a dataset\'s dataset.json has one')
    words, tokens, lengths, sentences = _Numbers(), array.array('i'), [], [0]
    filenames, image_ids, coco_ids, splits = [], [], [], []
    for i, image in enumerate(images):
        filename, image_id, coco_id, split = _image(image, f'{path}: images[{i}]')
        filenames.append(filename)
        image_ids.append(image_id)
        coco_ids.append(coco_id)
        splits.append(split)
        for j, sentence in enumerate(_field(image, 'sentences', list, f'{path}: images[{i}]')):
            where = f'{path}: images[{i}].sentences[{j}]'
            if not isinstance(sentence, dict):
                raise InputError(f'{where} is no object with "tokens"')
            spoken = _field(sentence, 'tokens', list, where)
            known = len(words)
            try:
                tokens.extend(map(words.__getitem__, spoken))
                sound = len(words) == known or all(isinstance(token, str) for token in spoken)
            except TypeError:                           # a list or an object cannot be numbered
                sound = False
            if not sound:
                token = next(token for token in spoken if not isinstance(token, str))
                said = '' if isinstance(token, (list, dict)) else f' {token!r}'
                raise InputError(f'{where}: the token{said} is no string')
            lengths.append(len(spoken))
        sentences.append(len(lengths))
    image_ids = np.array(image_ids, np.int64)
    if len(np.unique(image_ids)) < len(image_ids):
        seen = set()
        twice = next(int(i) for i in image_ids if i in seen or seen.add(i))
        raise InputError(f'{path}: two images have the imgid {twice}; each needs its own column of features')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Captions(filenames, image_ids, np.array(coco_ids, np.int64), np.array(splits, np.int8),
                    np.array(sentences, np.int64), np.cumsum([0, *lengths], dtype=np.int64),
                    np.array(tokens, np.int32), list(words), digest, checked_tokenizer(data, path))


def checked_tokenizer(record, path):
    """The tokenizer that a JSON object records under `tokenizer`, words where it does not.

    Raises:
        InputError: It is none of TOKENIZERS; the line names the file at `path`.
    """
    tokenizer = record.get('tokenizer', 'words')
    if tokenizer not in TOKENIZERS:
        raise InputError(f'{path}: "tokenizer" should be {" or ".join(TOKENIZERS)}, not {tokenizer!r}')
    return tokenizer


class _Numbers(dict):
    """Numbers its keys in the order in which they are first asked for."""

    def __missing__(self, key):
        self[key] = number = len(self)
        return number


def _field(record, key, kind, where):
    value = record.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {list: 'list', str: 'string', int: 'whole number'}[kind]
        raise InputError(f'{where} has no {name} "{key}"')
    return value


def _image(image, where):
    if not isinstance(image, dict):
        raise InputError(f'{where} is no object')
    split = _field(image, 'split', str, where)
    if split not in SPLITS:
        raise InputError(f'{where}: the split "{split}" is none of {", ".join(SPLITS)}')
    image_id = _field(image, 'imgid', int, where)
    if not 0 <= image_id < 2 ** 62:
        raise InputError(f'{where}: the imgid {image_id} is no column of a matrix')
    coco_id = image.get('cocoid')
    coco_id = coco_id if isinstance(coco_id, int) and 0 <= coco_id < 2 ** 62 else -1
    return _field(image, 'filename', str, where), image_id, coco_id, SPLITS.index(split)


# In the cache a list of strings is one array of bytes and where each ends; 'surrogatepass' keeps whatever JSON can
# spell.
def _from_strings(strings):
    encoded = [s.encode('utf-8', 'surrogatepass') for s in strings]
    return np.frombuffer(b''.join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)], dtype=np.int64)


def _to_strings(text, bounds):
    text, bounds = text.tobytes(), bounds.tolist()
    if bounds[0] != 0 or bounds[-1] != len(text):
        raise ValueError('strings are damaged')
    return [text[a:b].decode('utf-8', 'surrogatepass') for a, b in itertools.pairwise(bounds)]


_ARRAYS = ('image_ids', 'coco_ids', 'splits', 'sentences', 'bounds', 'tokens')
_STRINGS = ('filenames', 'words')


def _to_arrays(captions):
    arrays = {name: getattr(captions, name) for name in _ARRAYS}
    for name in _STRINGS:
        arrays[name], arrays[name + '_bounds'] = _from_strings(getattr(captions, name))
    arrays['digest'], arrays['tokenizer'] = np.array(captions.digest), np.array(captions.tokenizer)
    return arrays


def _from_arrays(arrays):
    strings = {name: _to_strings(arrays[name], arrays[name + '_bounds']) for name in _STRINGS}
    captions = Captions(digest=str(arrays['digest']), tokenizer=str(arrays['tokenizer']), **strings,
                        **{name: arrays[name] for name in _ARRAYS})
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
