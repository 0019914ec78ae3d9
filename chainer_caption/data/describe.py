"""Description of a dataset, and the usual faults of data. Features are read block by block, to save memory."""
import collections
import hashlib
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chainer_caption.data import SPLITS, TRAINING_SPLITS, Dataset
from chainer_caption.data.batches import MAX_WORDS
from chainer_caption.data.captions import Captions
from chainer_caption.data.vocabulary import SPECIAL

MIN_COUNTS = (1, 2, 3, 5, 10)
_PERCENTILES = (5, 25, 50, 75, 95, 99)
FEW_CAPTIONS = 1000             # with fewer, few words occur the five times that put them into a vocabulary
# Short captions describe many images. An image that shares half of its captions, word for word, with training images is
# rare all the same; where more than this share of a split does, the split was trained on.
_SHARED = 0.05
# The ends of sentences and clauses, also in East Asian writing.
_SENTENCE_ENDS = ('.', ',', ';', ':', '!', '?', '\u3002', '\u3001', '\uff0c', '\uff01', '\uff1f')
_BLOCK = 2 ** 25                # bytes of features in a block
_Fault = tuple[str, int, str]


def describe(dataset: Dataset, min_counts: Sequence[int] = MIN_COUNTS) -> dict[str, Any]:
    """Describes a dataset. `min_counts` are the vocabularies to describe: how often a word occurs at least in training.

    Returns JSON values. `tokenizer`; `splits`: of each its `images`, `captions`, `words` (all of them) and
    `captions_per_image` (least, mean, most); `lengths`: of all captions, in words, `mean`, `percentiles`, `longest`;
    `vocabulary`: for each of `min_counts` the `size` without special words, and for `val` and `test` the `coverage`,
    the share of their distinct words that are in it, and `unk`, the share of their words that are not; `features`:
    `size` D, `locations` L of grids (None of vectors), `rows` that images have, share of `zeros`, `norms` (least, mean,
    most), and how many rows are `constant` or a `duplicate` of one before; `grids`: `locations` and `size` of grids
    beside vectors, or None; `faults`: as from `find_faults`. "Words" are the tokens of the dataset's tokenizer."""
    captions, rows = dataset.captions, _Rows(dataset)
    grids = dataset.grids if dataset.features is not None else None
    return {'tokenizer': captions.tokenizer, 'splits': _splits(captions), 'lengths': _lengths(captions),
            'vocabulary': _vocabularies(captions, min_counts), 'features': rows.describe(),
            'grids': None if grids is None else {'locations': grids.shape[1], 'size': grids.shape[2]},
            'faults': find_faults(dataset, rows)}


def _spread(values: np.ndarray) -> dict[str, float]:
    return {'least': float(values.min()), 'mean': float(values.mean()), 'most': float(values.max())}


def _splits(captions: Captions) -> dict[str, dict]:
    counts, lengths = np.diff(captions.sentences), np.diff(captions.bounds)
    split_of = np.repeat(captions.splits, counts)
    return {split: {'images': len(own), 'captions': int(own.sum()), 'words': int(lengths[split_of == i].sum()),
                    'captions_per_image': _spread(own)}
            for i, split in enumerate(SPLITS) if len(own := counts[captions.splits == i])}


def _lengths(captions: Captions) -> dict[str, Any]:
    lengths = np.diff(captions.bounds)
    if not len(lengths):
        return {'mean': 0.0, 'percentiles': {}, 'longest': 0}
    return {'mean': float(lengths.mean()), 'longest': int(lengths.max()), 'percentiles': {
        str(p): float(value) for p, value in zip(_PERCENTILES, np.percentile(lengths, _PERCENTILES), strict=True)}}


def _word_counts(captions: Captions, splits: Sequence[str]) -> np.ndarray:
    """How often each of `captions.words` occurs in the captions of some splits, (words,) int."""
    tokens = captions.tokens[np.repeat(captions.in_splits(splits)[captions.images()], np.diff(captions.bounds))]
    return np.bincount(tokens, minlength=len(captions.words))


def _vocabularies(captions: Captions, min_counts: Sequence[int]) -> list[dict]:
    seen = _word_counts(captions, TRAINING_SPLITS)
    seen[np.isin(captions.words, SPECIAL)] = 0          # as in `Vocabulary`
    others = {split: _word_counts(captions, [split]) for split in ('val', 'test')}
    def described(least: int) -> dict:
        known = seen >= max(1, least)
        return {'min_count': least, 'size': int(known.sum()),
                **{split: {'coverage': float(known[own > 0].mean()), 'unk': float(own[~known].sum() / own.sum())}
                   for split, own in others.items() if own.sum()}}
    return [described(least) for least in min_counts]


class _Rows:
    """The feature rows of a dataset's images, in the images' order: vectors, or grids where there are no vectors."""
    def __init__(self, dataset: Dataset) -> None:
        ids, features = dataset.captions.image_ids, dataset.inputs('grids' if dataset.features is None else 'vectors')
        assert isinstance(features, np.ndarray)
        self.shape, self.unused = features.shape[1:], len(features) - len(ids)      # unused: rows that no image has
        self.zeros, self.group = 0, []                  # the number of zeros, and a digest of each row
        norms, constant, count = [], [], max(1, _BLOCK // (4 * int(np.prod(self.shape))))
        for start in range(0, len(ids), count):
            block = np.asarray(features[ids[start:start + count]])
            block = block.reshape(len(block), -1) + 0   # + 0: no negative zeros
            self.zeros += int(np.count_nonzero(block == 0))
            norms.append(np.sqrt(np.einsum('ij,ij->i', block, block, dtype=np.float64)))
            constant.append((block == block[:, :1]).all(axis=1))
            self.group += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in block]
        self.norms, self.constant = np.concatenate(norms), np.concatenate(constant)
        self.zero = self.norms == 0                     # all zeros; `constant`: one number throughout; (images,) bool

    def describe(self) -> dict[str, Any]:
        rows = len(self.norms)
        return {'size': self.shape[-1], 'locations': self.shape[0] if len(self.shape) > 1 else None, 'rows': rows,
                'zeros': self.zeros / (rows * int(np.prod(self.shape))), 'norms': _spread(self.norms),
                'constant': int(self.constant.sum()), 'duplicate': rows - len(set(self.group))}


def find_faults(dataset: Dataset, rows: _Rows | None = None) -> list[dict[str, Any]]:
    """Finds the usual faults of data, in a dataset and its feature rows (read if not given): a list of
    `{"fault": its name, "count": how often, "line": what it is, with an example}`."""
    captions, rows = dataset.captions, rows or _Rows(dataset)
    found = itertools.chain(_faults_of_captions(captions), _faults_of_tokens(captions), _shared_captions(captions),
                            _faults_of_rows(captions, rows))
    return [{'fault': fault, 'count': int(count), 'line': line} for fault, count, line in found]


def _by_example(captions: Captions, *faults: tuple[str, Sequence[int] | np.ndarray, str]) -> Iterator[_Fault]:
    """Each fault that has images, with the first one's name behind the text; an image counts as often as it occurs."""
    for fault, images, text in faults:
        if len(images):
            yield fault, len(images), f'{len(images):,} {text} {captions.filenames[images[0]]}'


def _faults_of_captions(captions: Captions) -> Iterator[_Fault]:
    names, counts = collections.Counter(captions.filenames), np.diff(captions.sentences)
    places = {name: i for i, name in enumerate(captions.filenames)}
    twice = [places[name] for name, count in names.items() if count > 1]
    yield from _by_example(
        captions, ('duplicate file names', twice, 'file names are those of several images, such as'),
        ('images without captions', np.flatnonzero(counts == 0), 'images have no caption, such as'))
    for split, why in (('val', 'no epoch is found to be the best, and the last one is kept'),
                       ('test', 'there is no score on images that the model was not chosen by')):
        if SPLITS.index(split) not in captions.splits:
            yield f'no {split} split', 1, f'no image is of the split {split}: {why}'
    training = int(counts[captions.in_splits(TRAINING_SPLITS)].sum())
    if training < FEW_CAPTIONS:
        yield ('few captions', training, f'{training:,} training captions are too few to learn from; '
               f'the small public datasets have 15,000 to 30,000')
    lengths, images = np.diff(captions.bounds), captions.images()
    yield from _by_example(
        captions, ('empty captions', images[lengths == 0], 'captions have no words, such as one of'),
        ('long captions', images[lengths > MAX_WORDS],
         f'captions have more than {MAX_WORDS} words and are cut there, such as one of'))


def _has_punctuation(word: str) -> bool:
    """Whether a token ends as a sentence or a clause does, or is only punctuation; 'u.s.' and "'s" are words."""
    if word.endswith(_SENTENCE_ENDS):
        return word.count('.') < 2 or word.endswith('..')
    return word != '' and all(unicodedata.category(letter)[0] == 'P' for letter in word)


def _faults_of_tokens(captions: Captions) -> Iterator[_Fault]:
    counts = np.bincount(captions.tokens, minlength=len(captions.words))
    for fault, is_so, what in (
            ('upper case', lambda word: word != word.lower() and word not in SPECIAL,
             'have upper case; "Dog" and "dog" are different words'),
            ('punctuation', _has_punctuation, 'have punctuation, which is learned as words are'),
            ('white space', lambda word: word.split() != [word] and (captions.tokenizer, word) != ('characters', ' '),
             'are empty or have white space within; a token is one word'),
            ('special words', lambda word: word in SPECIAL, 'are special words, which count as <UNK>')):
        places = [i for i, word in enumerate(captions.words) if is_so(word)]
        if places:
            count, example = int(counts[places].sum()), captions.words[max(places, key=lambda i: counts[i])]
            yield fault, count, f'{count:,} tokens {what} (the most frequent is {example!r})'


def _shared_captions(captions: Captions) -> Iterator[_Fault]:
    """Splits many of whose images have, word for word, the captions of training images."""
    training, own = set(), collections.defaultdict(list)
    is_training, tokens, bounds = captions.in_splits(TRAINING_SPLITS), captions.tokens, captions.bounds.tolist()
    for j, place in enumerate(captions.images().tolist()):
        caption = tokens[bounds[j]:bounds[j + 1]].tobytes()
        if caption and is_training[place]:
            training.add(caption)
        elif caption:
            own[place].append((caption, j))
    for split in ('val', 'test'):
        images = [place for place in own if SPLITS[captions.splits[place]] == split]
        shared = [place for place in images
                  if 2 * sum(caption in training for caption, _ in own[place]) >= len(own[place])]
        if len(shared) > _SHARED * len(images):
            example = next(j for caption, j in own[shared[0]] if caption in training)
            yield (f'{split} captions in training', len(shared), f'{len(shared):,} of {len(images):,} images of '
                   f'{split} share half of their captions or more, word for word, with training, such as '
                   f'{captions.filenames[shared[0]]}: {" ".join(captions.sentence(example))!r}')


def _faults_of_rows(captions: Captions, rows: _Rows) -> Iterator[_Fault]:
    yield from _by_example(
        captions, ('zero features', np.flatnonzero(rows.zero), 'images have features that are all zero, such as'),
        ('constant features', np.flatnonzero(rows.constant & ~rows.zero),
         'images have features that are all the same number, such as'))
    if rows.unused > 0:
        yield ('unused feature rows', rows.unused, f'{rows.unused:,} rows of features are those of no image; is it the '
               'right file, with a row for each image?')
    # Training images count as one split here: the same image in train and restval is no fault.
    side = np.where(captions.splits == SPLITS.index('restval'), SPLITS.index('train'), captions.splits)
    groups = collections.defaultdict(list)
    for place in np.flatnonzero(~rows.zero).tolist():
        groups[rows.group[place]].append(place)
    same = [places for places in groups.values() if len(places) > 1]
    across = [places for places in same if len(set(side[places].tolist())) > 1]
    within = [places for places in same if len(set(side[places].tolist())) == 1]
    names = captions.filenames
    if across:
        count, one = sum(map(len, across)), across[0][0]
        other = next(place for place in across[0] if side[place] != side[one])
        first, second = (f'{names[place]} ({SPLITS[captions.splits[place]]})' for place in (one, other))
        yield ('same features across splits', count, f'{count:,} images have the same features as an image of another '
               f'split, such as {first} and {second}: the same image seems to be in both')
    if within:
        count, (one, other, *_) = sum(len(places) - 1 for places in within), within[0]
        yield ('same features within a split', count, f'{count:,} images have the same features as another image of '
               f'their split, such as {names[one]} and {names[other]}')
