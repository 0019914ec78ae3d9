"""CIDEr (Vedantam et al. 2015) as the COCO caption code computes it, which is the CIDEr-D of all published figures.

For each order n = 1..4 a caption is a vector of tf-idf weights over n-grams, where a document is an image with all its
references. A prediction's similarity to a reference is the cosine of the two, with two changes that make padding a
caption unprofitable: in the product the prediction's weights are clipped at the reference's, and a difference in length
is penalized by a Gaussian of sigma 6. CIDEr is ten times the mean over orders and references, so it may exceed 1.
"""
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainer_caption.evaluation.metrics.checks import checked_predictions, checked_references
from chainer_caption.evaluation.metrics.ngrams import MAX_ORDER, count_ngrams, differs, lengths_of, pair, word_numbers
from chainer_caption.functions.compiled import compiled, parallel_for

SIGMA = 6.0
#: Explanation for users who score the captions of one image.
SINGLE = 'CIDEr of a single image is 0 whatever its caption: it compares images'


class CiderTables:
    """The references' n-grams, weights and norms, prepared once.

    Where the formula would divide by zero, the COCO code takes a similarity of 0, and so does this: for a caption too
    short to have n-grams of an order, and for one whose n-grams all occur in every image's references, as those of a
    single image do. The COCO code fails where all references are empty; here CIDEr is 0 then.

    Args:
        arrays: From `build`. For C captions of N images with E different n-grams of an order: `first` (N + 1,) int64,
            the first reference of each image; `length` (C,) int64; `idf` (N + 1,) float64, the weight of what occurs in
            so many images; and for each order `table`, the sorted keys of the n-grams, int64; `frequency`, the images
            in which they occur, int32; `start` (N + 1,) int64, the first entry of each image; `gram`, `count` and
            `reference` (E,) int32, its entries; and `norm` (C,) float64.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._of_all = arrays['first'], arrays['length'], arrays['idf']
        self._orders = tuple(tuple(arrays[f'{name}{order}'] for order in range(1, MAX_ORDER + 1)) for name in (
            'table', 'frequency', 'start', 'gram', 'count', 'reference', 'norm'))

    @staticmethod
    def build(words: np.ndarray, lengths: np.ndarray, references: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of references.

        Args:
            words: The numbers of the words of all references, one after another, (M,) int32: from 0, without gaps.
            lengths, references: Numbers of words of each reference, (C,) int, and of references of each image, (N,).
        """
        first = np.concatenate([[0], np.cumsum(references)])
        image = np.repeat(np.arange(len(references), dtype=np.int32), references)
        # As one logarithm, the weight of what occurs in every image is exactly zero, and a caption with nothing else
        # has a norm of exactly zero. An n-gram that no reference has weighs as much as one of a single image.
        # The COCO code's length is the number of bigrams: the empty caption is as long as one word.
        arrays = {'first': first, 'length': np.maximum(lengths - 1, 0).astype(np.int64),
                  'idf': np.log(len(references) / np.maximum(np.arange(len(references) + 1), 1)),
                  'table1': np.arange(words.max(initial=-1) + 1, dtype=np.int64)}

        def number(order: int, keys: np.ndarray) -> np.ndarray:
            arrays[f'table{order}'] = keys
            return np.arange(len(keys), dtype=np.int32)

        for order, counts in enumerate(count_ngrams(words, lengths, number), 1):
            place, frequency, start = _by_image(pair(image[counts.caption], counts.gram), len(arrays[f'table{order}']),
                                                len(references))
            weight = arrays['idf'][frequency[counts.gram]]
            weight *= counts.count
            weight *= weight
            arrays.update({f'frequency{order}': frequency, f'start{order}': start,
                           f'norm{order}': np.sqrt(np.bincount(counts.caption, weight, minlength=len(image)))})
            del weight
            arrays.update({f'gram{order}': counts.gram[place], f'count{order}': counts.count[place],
                           f'reference{order}': counts.caption[place]})
        return arrays

    def score(self, words: np.ndarray, bounds: np.ndarray, images: np.ndarray) -> np.ndarray:
        """CIDEr-D of captions, from 0 to 10, (B,) float64.

        Args:
            words: The numbers of all captions' words, one after another, int64, also such that no reference has.
            bounds: Caption i has words[bounds[i]:bounds[i + 1]], (B + 1,) int64.
            images: The image of each caption, (B,) int64.
        """
        scores = np.zeros(len(images))
        parallel_for(_score, len(images), words, bounds, images, *self._of_all, *self._orders, scores)
        return scores


class CiderScorer:
    """CIDEr, of captions of strings, against references that are prepared once; arguments as for `Scorer`.

    Document frequencies are those of these references, so figures of corpora of different sizes are not comparable.
    """

    def __init__(self, references: Sequence) -> None:
        references = checked_references(references)
        captions = list(itertools.chain.from_iterable(references))
        self._numbers: dict[str, int] = {}
        words, self._images = word_numbers(captions, self._numbers), len(references)
        self._tables = CiderTables(CiderTables.build(words, lengths_of(captions), lengths_of(references)))

    def score(self, predictions: Sequence, images: Sequence[int] | None = None) -> tuple[dict, dict]:
        """``{'CIDEr': float}``, the mean over predictions, and ``{'CIDEr': array}``, (N,) or (M,), that of each; from 0
        to 10. Predictions are sequences of tokens, one for each of the N images, or M for the `images` that are named,
        (M,) int in [0, N), in any order."""
        places = np.arange(self._images) if images is None else np.asarray(images, np.int64)
        predictions = checked_predictions(predictions, len(places))
        words = word_numbers(predictions, self._numbers).astype(np.int64)
        each = self._tables.score(words, np.concatenate([[0], np.cumsum(lengths_of(predictions))]), places)
        return {'CIDEr': float(each.mean())}, {'CIDEr': each}


class CiderReward:
    """CIDEr-D of captions that are given as word ids, for self-critical training.

    `numbers` has the number of each word of the references; `words` are the tokens whose places are the word ids, such
    as a vocabulary's. What ends a caption may be a word of the references: then an unfinished caption scores less.
    """

    def __init__(self, tables: CiderTables, numbers: Mapping[str, int], words: Sequence[str]) -> None:
        self._tables = tables
        # Words that no reference has get numbers, too, which distinguish them.
        self._numbers = np.array([numbers.get(word, len(numbers) + i) for i, word in enumerate(words)], np.int64)

    def __call__(self, captions: Sequence[np.ndarray], images: Any) -> np.ndarray:
        """From 0 to 10, (captions,) float64, for captions as word ids, (length,) int, of images in [0, N)."""
        words = self._numbers[np.concatenate([*captions, np.zeros(0, np.int64)]).astype(np.int64)]
        return self._tables.score(words, np.cumsum([0, *map(len, captions)]), np.asarray(images, np.int64))


def _by_image(keys: np.ndarray, grams: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of entries by image and n-gram, the images of each n-gram, and the first entry of each image."""
    place = np.argsort(keys, kind='stable').astype(np.int32)
    keys = keys[place]
    start = np.searchsorted(keys, np.arange(images + 1) << 32)
    # The low halves of the keys are the n-grams.
    frequency = np.bincount(keys[differs(keys)].astype(np.int32), minlength=grams)
    return place, frequency.astype(np.int32), start


@compiled
def _score(words, bounds, images, first, lengths, idf, tables, frequencies, starts, grams, counts, of, norms, scores,
           start, stop):
    for i in range(start, stop):
        caption = words[bounds[i]:bounds[i + 1]]
        image = images[i]
        references = first[image + 1] - first[image]
        similarity = np.zeros(references)
        product = np.zeros(references)
        own = caption.copy()                            # the n-gram that begins here, -1 if no reference has it
        for order in range(MAX_ORDER):
            norm = 0.0
            product[:] = 0
            end = starts[order][image + 1]
            for at in range(len(caption) - order):
                if order:
                    own[at] = _find(tables[order], own[at], caption[at + order])
                elif caption[at] >= len(tables[0]):
                    own[at] = -1
                count = _occurrences(caption, at, order + 1)
                if not count:
                    continue
                known = own[at] >= 0
                rarity = idf[frequencies[order][own[at]] if known else 1]
                weight = count * rarity
                norm += weight * weight
                if known:
                    entry = starts[order][image] + np.searchsorted(grams[order][starts[order][image]:end], own[at])
                    while entry < end and grams[order][entry] == own[at]:
                        other = counts[order][entry] * rarity
                        product[of[order][entry] - first[image]] += min(weight, other) * other
                        entry += 1
            for r in range(references):
                if product[r] > 0:
                    similarity[r] += product[r] / (np.sqrt(norm) * norms[order][first[image] + r])
        for r in range(references):
            difference = max(len(caption) - 1, 0) - lengths[first[image] + r]
            scores[i] += similarity[r] * np.exp(-difference * difference / (2 * SIGMA ** 2))
        scores[i] *= 10 / MAX_ORDER / references


@compiled
def _find(table, gram, word):
    # The number of the n-gram that is `gram` followed by `word`, or -1.
    if gram < 0:
        return -1
    key = gram << 32 | word
    place = np.searchsorted(table, key)
    return place if place < len(table) and table[place] == key else -1


@compiled
def _occurrences(caption, at, size):
    # How often the n-gram at `at` occurs in the caption; 0 where it has occurred before and been counted.
    count = 0
    for other in range(len(caption) - size + 1):
        k = 0
        while k < size and caption[other + k] == caption[at + k]:
            k += 1
        if k == size:
            if other < at:
                return 0
            count += 1
    return count
