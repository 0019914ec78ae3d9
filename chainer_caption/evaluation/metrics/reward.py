"""CIDEr-D as a reward: of captions given as word ids, some of an image at a time, thousands a second.

The numbers are `CiderScorer`'s, whose tables are prepared once over all training captions; what is counted for each
caption is counted in compiled code, where Python and NumPy would take as long as the model.
"""
import numpy as np

from chainer_caption.evaluation.metrics.cider import SIGMA, CiderScorer
from chainer_caption.evaluation.metrics.ngrams import MAX_ORDER
from chainer_caption.functions.compiled import compiled, parallel_for


class CiderReward:
    """CIDEr-D against references that are prepared once.

    Args:
        references: For each of N images, its references (at least one), each a sequence of tokens. Document
            frequencies come from these.
        words: The tokens that predictions are made of, whose places are their ids, such as a vocabulary's words. What
            ends a caption may be among them and in the references: then it is a word like others, and a caption
            without it pays.
    """

    def __init__(self, references, words):
        scorer = CiderScorer(references)
        index, orders = scorer._index, scorer._orders
        known = index.words
        # Words that no reference has need numbers, too, by which they are told apart.
        self._numbers = np.array([known.get(word, len(known) + i) for i, word in enumerate(words)], np.int64)
        self._references = scorer._references
        self._first = np.cumsum(self._references) - self._references
        self._lengths = scorer._length.astype(np.int64)
        self._tables = (np.arange(len(known)), *index.tables)
        self._orders = tuple(zip(*((order._idf, order._keys, order._weight, order._reference, order._norm)
                                   for order in orders), strict=True))

    def __call__(self, captions, images):
        """Scores captions.

        Args:
            captions (sequence of numpy.ndarray): The word ids of each, (length,) int.
            images (sequence of int): The image of each, in [0, N).

        Returns:
            numpy.ndarray: CIDEr-D of each, zero or more, at most 10: (captions,) float64.
        """
        bounds = np.cumsum([0, *map(len, captions)])
        words = self._numbers[np.concatenate([*captions, np.zeros(0, np.int64)]).astype(np.int64)]
        rewards = np.zeros(len(captions))
        parallel_for(_score, len(captions), words, bounds, np.asarray(images, np.int64), self._references, self._first,
                   self._lengths, self._tables, *self._orders, rewards)
        return rewards


@compiled
def _score(words, bounds, images, references, first, lengths, tables, idf, keys, weights, of, norms, rewards,
           start, stop):
    for i in range(start, stop):
        caption = words[bounds[i]:bounds[i + 1]]
        image = images[i]
        similarity = np.zeros(references[image])
        product = np.zeros(references[image])
        grams = caption.copy()                          # the number of the n-gram that begins here; -1 for none known
        for order in range(MAX_ORDER):
            norm = 0.0
            product[:] = 0
            for at in range(len(caption) - order):
                if order:
                    grams[at] = _find(tables[order], grams[at], caption[at + order])
                elif caption[at] >= len(tables[0]):
                    grams[at] = -1
                count = _occurrences(caption, at, order + 1)
                if not count:
                    continue
                known = grams[at] >= 0
                weight = count * idf[order][grams[at] if known else len(idf[order]) - 1]
                norm += weight * weight
                if known:
                    key = image << 32 | grams[at]
                    entry = np.searchsorted(keys[order], key)
                    while entry < len(keys[order]) and keys[order][entry] == key:
                        own = weights[order][entry]
                        product[of[order][entry] - first[image]] += min(weight, own) * own
                        entry += 1
            for r in range(len(product)):
                if product[r] > 0:
                    similarity[r] += product[r] / (np.sqrt(norm) * norms[order][first[image] + r])
        for r in range(len(similarity)):
            difference = max(len(caption) - 1, 0) - lengths[first[image] + r]
            rewards[i] += similarity[r] * np.exp(-difference * difference / (2 * SIGMA ** 2))
        rewards[i] *= 10 / MAX_ORDER / references[image]


@compiled
def _find(table, gram, word):
    # The number of the n-gram that is `gram` and then `word`, or -1.
    if gram < 0:
        return -1
    key = gram << 32 | word
    place = np.searchsorted(table, key)
    return place if place < len(table) and table[place] == key else -1


@compiled
def _occurrences(caption, at, size):
    # How often the n-gram at `at` is in the caption; 0 where it stands before as well, and has been counted.
    count = 0
    for other in range(len(caption) - size + 1):
        same = True
        for k in range(size):
            if caption[other + k] != caption[at + k]:
                same = False
                break
        if same:
            if other < at:
                return 0
            count += 1
    return count
