"""What is in a dataset, and the usual faults of one's own data.

The figures of features are taken block by block, so that a matrix of gigabytes needs no memory of its size.
"""
import collections
import hashlib
import itertools
import unicodedata

import numpy as np

from chainer_caption.data import SPLITS, TRAINING_SPLITS
from chainer_caption.data.batches import MAX_WORDS
from chainer_caption.data.vocabulary import SPECIAL

MIN_COUNTS = (1, 2, 3, 5, 10)
_PERCENTILES = (5, 25, 50, 75, 95, 99)

# With fewer captions, few words are seen the five times that put them into a vocabulary.
FEW_CAPTIONS = 1000

# Short captions are said of many images. An image half of whose captions, word for word, are those of training
# images is rare all the same; where more than this share of a split is so, training has seen the split.
_SHARED = 0.05

# What ends a sentence or a clause, also in East Asian writing.
_SENTENCE_ENDS = ('.', ',', ';', ':', '!', '?', '\u3002', '\u3001', '\uff0c', '\uff01', '\uff1f')

_ROWS = 1024


def describe(dataset, min_counts=MIN_COUNTS):
    """Describes a dataset.

    Args:
        dataset (Dataset): The dataset.
        min_counts (sequence of int): For which vocabularies, by how often a word must be seen in training to be in it.

    Returns:
        dict: JSON values. `tokenizer`: what captions are cut into, words here whatever it is; `splits`: for each its
        `images`, `captions`, `words` (all of them) and `captions_per_image` (least, mean, most); `lengths`: of all
        captions, in words, `mean`, `percentiles`, `longest`; `vocabulary`: for each of `min_counts` the `size` without
        special words, and for `val` and `test` the `coverage`, the share of their distinct words that are in it, and
        `unk`, the share of their words that are not; `features`: `size` D, `rows` that images have, share of `zeros`,
        `norms` (least, mean, most), and how many rows are `constant` or a `duplicate` of one before; `faults`: a list
        of `{"fault", "count", "line"}`, as `find_faults` gives it.
    """
    rows = _Rows(dataset)
    return {'tokenizer': dataset.captions.tokenizer, 'splits': _splits(dataset.captions),
            'lengths': _lengths(dataset.captions),
            'vocabulary': _vocabularies(dataset.captions, min_counts), 'features': rows.describe(),
            'faults': find_faults(dataset, rows)}


def _spread(values):
    return {'least': float(values.min()), 'mean': float(values.mean()), 'most': float(values.max())}


def _splits(captions):
    counts, lengths = np.diff(captions.sentences), np.diff(captions.bounds)
    split_of = np.repeat(captions.splits, counts)
    described = {}
    for i, split in enumerate(SPLITS):
        own = counts[captions.splits == i]
        if len(own):
            described[split] = {'images': len(own), 'captions': int(own.sum()),
                                'words': int(lengths[split_of == i].sum()), 'captions_per_image': _spread(own)}
    return described


def _lengths(captions):
    lengths = np.diff(captions.bounds)
    if not len(lengths):
        return {'mean': 0.0, 'percentiles': {}, 'longest': 0}
    return {'mean': float(lengths.mean()), 'longest': int(lengths.max()), 'percentiles': {
        str(p): float(value) for p, value in zip(_PERCENTILES, np.percentile(lengths, _PERCENTILES), strict=True)}}


def _word_counts(captions, splits):
    """How often each of `captions.words` stands in the captions of some splits, (words,) int."""
    spoken = np.repeat(np.repeat(captions.splits, np.diff(captions.sentences)), np.diff(captions.bounds))
    return np.bincount(captions.tokens[np.isin(spoken, [SPLITS.index(split) for split in splits])],
                       minlength=len(captions.words))


def _vocabularies(captions, min_counts):
    seen = _word_counts(captions, TRAINING_SPLITS)
    # As in `Vocabulary`: a caption that spells out a special word says nothing that could be learned.
    seen[np.isin(captions.words, SPECIAL)] = 0
    others = {split: _word_counts(captions, [split]) for split in ('val', 'test')}
    described = []
    for least in min_counts:
        known = seen >= max(1, least)
        entry = {'min_count': least, 'size': int(known.sum())}
        for split, counts in others.items():
            if counts.sum():
                entry[split] = {'coverage': float(known[counts > 0].mean()),
                                'unk': float(counts[~known].sum() / counts.sum())}
        described.append(entry)
    return described


class _Rows:
    """The feature rows of a dataset's images, in the images' order.

    Attributes:
        zero (numpy.ndarray): Whether a row is all zeros, (images,) bool.
        group (list of bytes): What tells a row from others; the same for the same row.
    """

    def __init__(self, dataset):
        ids, features = dataset.captions.image_ids, dataset.features
        self.size = features.shape[1]
        self.zeros, self.group = 0, []
        norms, constant = [], []
        for start in range(0, len(ids), _ROWS):
            block = np.ascontiguousarray(features[ids[start:start + _ROWS]]) + 0    # + 0: no negative zeros
            self.zeros += int(np.count_nonzero(block == 0))
            norms.append(np.sqrt(np.einsum('ij,ij->i', block, block, dtype=np.float64)))
            constant.append((block == block[:, :1]).all(axis=1))
            self.group += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in block]
        self.norms, self.constant = np.concatenate(norms), np.concatenate(constant)
        self.zero = self.norms == 0

    def describe(self):
        rows = len(self.norms)
        return {'size': self.size, 'rows': rows, 'zeros': self.zeros / (rows * self.size),
                'norms': _spread(self.norms), 'constant': int(self.constant.sum()),
                'duplicate': rows - len(set(self.group))}


def find_faults(dataset, rows=None):
    """Finds the usual faults of one's own data.

    Args:
        dataset (Dataset): The dataset.
        rows (_Rows or None): Its feature rows, where they have been read.

    Returns:
        list of dict: `{"fault": its name, "count": how often, "line": what it is, with an example}`; empty for a
        dataset without.
    """
    captions = dataset.captions
    rows = rows or _Rows(dataset)
    found = itertools.chain(_faults_of_images(captions), _faults_of_captions(captions), _faults_of_tokens(captions),
                            _shared_captions(captions), _faults_of_rows(captions, rows))
    return [{'fault': fault, 'count': int(count), 'line': line} for fault, count, line in found]


def _faults_of_images(captions):
    names = collections.Counter(captions.filenames)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        yield ('duplicate file names', len(twice),
               f'{len(twice):,} file names are those of several images, such as {twice[0]}')
    counts = np.diff(captions.sentences)
    silent = np.flatnonzero(counts == 0)
    if len(silent):
        yield ('images without captions', len(silent),
               f'{len(silent):,} images have no caption, such as {captions.filenames[silent[0]]}')
    for split, why in (('val', 'nothing chooses the best epoch, and the last one is kept'),
                       ('test', 'there is nothing to score a model on that it was not chosen by')):
        if SPLITS.index(split) not in captions.splits:
            yield f'no {split} split', 1, f'no image is of the split {split}: {why}'
    training = int(counts[np.isin(captions.splits, [SPLITS.index(split) for split in TRAINING_SPLITS])].sum())
    if training < FEW_CAPTIONS:
        yield ('few captions', training, f'{training:,} training captions are too few to learn from; '
               f'the small public datasets have 15,000 to 30,000')


def _faults_of_captions(captions):
    lengths = np.diff(captions.bounds)
    image = np.repeat(np.arange(len(captions.filenames)), np.diff(captions.sentences))
    for fault, where, what in (
            ('empty captions', np.flatnonzero(lengths == 0), 'have no words'),
            ('long captions', np.flatnonzero(lengths > MAX_WORDS), f'have more than {MAX_WORDS} words, of which no '
             'more are learned')):
        if len(where):
            yield fault, len(where), (f'{len(where):,} captions {what}, such as one of '
                                      f'{captions.filenames[image[where[0]]]}')


def _has_punctuation(word):
    """Whether a token ends as a sentence or a clause does, or is nothing but punctuation; 'u.s.' and "'s" are words."""
    if word.endswith(_SENTENCE_ENDS):
        return word.count('.') < 2 or word.endswith('..')
    return word != '' and all(unicodedata.category(letter)[0] == 'P' for letter in word)


def _faults_of_tokens(captions):
    counts = np.bincount(captions.tokens, minlength=len(captions.words))
    for fault, is_so, what in (
            ('upper case', lambda word: word != word.lower() and word not in SPECIAL,
             'have upper case; "Dog" and "dog" are learned apart'),
            ('punctuation', _has_punctuation, 'have punctuation, which is learned as if it were spoken'),
            ('white space', lambda word: word.split() != [word] and (captions.tokenizer, word) != ('characters', ' '),
             'are empty or have white space within; a token is one word'),
            ('special words', lambda word: word in SPECIAL, 'are words that a vocabulary keeps for itself')):
        places = [i for i, word in enumerate(captions.words) if is_so(word)]
        if places:
            count, example = int(counts[places].sum()), captions.words[max(places, key=lambda i: counts[i])]
            yield fault, count, f'{count:,} tokens {what} (the commonest is {example!r})'


def _shared_captions(captions):
    """Splits many of whose images are described, word for word, as training images are."""
    training, own = set(), collections.defaultdict(list)
    image = np.repeat(np.arange(len(captions.filenames)), np.diff(captions.sentences))
    is_training = np.isin(captions.splits, [SPLITS.index(split) for split in TRAINING_SPLITS])
    tokens, bounds = captions.tokens, captions.bounds.tolist()
    for j, place in enumerate(image.tolist()):
        spoken = tokens[bounds[j]:bounds[j + 1]].tobytes()
        if spoken and is_training[place]:
            training.add(spoken)
        elif spoken:
            own[place].append((spoken, j))
    for split in ('val', 'test'):
        images = [place for place in own if SPLITS[captions.splits[place]] == split]
        shared = [place for place in images
                  if 2 * sum(spoken in training for spoken, _ in own[place]) >= len(own[place])]
        if len(shared) > _SHARED * len(images):
            example = next(j for spoken, j in own[shared[0]] if spoken in training)
            yield (f'{split} captions in training', len(shared),
                   f'{len(shared):,} of {len(images):,} images of {split} have half their captions or more word '
                   f'for word in training, such as {captions.filenames[shared[0]]}: '
                   f'{" ".join(captions.sentence(example))!r}')


def _faults_of_rows(captions, rows):
    if rows.zero.any():
        yield ('zero features', rows.zero.sum(), f'{rows.zero.sum():,} images have features that are all zero, such '
               f'as {captions.filenames[np.flatnonzero(rows.zero)[0]]}')
    constant = rows.constant & ~rows.zero
    if constant.any():
        yield ('constant features', constant.sum(), f'{constant.sum():,} images have features that are all the same '
               f'number, such as {captions.filenames[np.flatnonzero(constant)[0]]}')
    # Training images count as one split here: the same image in train and restval gives nothing away.
    side = np.where(captions.splits == SPLITS.index('restval'), SPLITS.index('train'), captions.splits)
    groups = collections.defaultdict(list)
    for place in np.flatnonzero(~rows.zero).tolist():
        groups[rows.group[place]].append(place)
    same = [places for places in groups.values() if len(places) > 1]
    across = [places for places in same if len(set(side[places].tolist())) > 1]
    within = [places for places in same if len(set(side[places].tolist())) == 1]
    if across:
        count, one = sum(map(len, across)), across[0][0]
        other = next(place for place in across[0] if side[place] != side[one])
        yield ('same features across splits', count,
               f'{count:,} images have the very features of one of another split, such as '
               f'{captions.filenames[one]} ({SPLITS[captions.splits[one]]}) and {captions.filenames[other]} '
               f'({SPLITS[captions.splits[other]]}): the same image seems to be in both')
    if within:
        count, (one, other, *_) = sum(len(places) - 1 for places in within), within[0]
        yield ('same features within a split', count,
               f'{count:,} images have the very features of another of their split, such as '
               f'{captions.filenames[one]} and {captions.filenames[other]}')
