"""N-grams as numbers: what BLEU and CIDEr count, counted for all captions at once.

An n-gram is named by an integer, its (n-1)-gram's number in the high and its last word's in the low half of 64 bits,
and then by that integer's rank among those of the references. So counting n-grams is sorting integers, and looking one
up is a binary search: no tuple of strings is ever made.
"""
import itertools
from typing import NamedTuple

import numpy as np

MAX_ORDER = 4  # both metrics use 1-grams to 4-grams


def pair(high, low):
    """Returns one int64 for each pair of integers in [0, 2**31); it sorts as the pairs do."""
    return high << 32 | low


def find(table, keys):
    """Looks keys up in a sorted table without repetitions.

    Returns:
        tuple: Each key's place in the table, and whether it is there; the place means nothing where it is not.
    """
    place = np.searchsorted(table, keys)
    known = place < len(table)
    known[known] = table[place[known]] == keys[known]
    return place, known


class Counts(NamedTuple):
    """How often each n-gram of one order occurs in each caption: three arrays (E,), sorted by caption, then n-gram."""

    caption: np.ndarray
    gram: np.ndarray
    count: np.ndarray


class NgramIndex:
    """Numbers the n-grams of the references, and counts those of any captions by these numbers.

    Args:
        captions: Sequences of tokens, the references.

    Attributes:
        counts: A list of :class:`Counts` of these captions, order 1 first.
        sizes: For each order, how many different n-grams they have. Their numbers are 0 to size - 1.
        words: A dict, the number of each word; those of captions that were counted later come after the references'.
        tables: For order 2 and up, the sorted keys (see :func:`pair`) whose ranks are the n-grams' numbers.
    """

    def __init__(self, captions):
        self.words = {}
        self.tables = []
        self.counts = self._count(captions, self._new_table)
        self.sizes = [len(self.words), *map(len, self.tables)]

    def count(self, captions):
        """Counts the n-grams of captions.

        Returns:
            list: :class:`Counts` for each order. An n-gram that no reference has gets a number of its order's size or
            above, good within this call only.
        """
        return self._count(captions, self._known_table)

    def _new_table(self, order, keys):
        self.tables.append(keys)
        return np.arange(len(keys))

    def _known_table(self, order, keys):
        table = self.tables[order - 2]
        number, known = find(table, keys)
        number[~known] = len(table) + np.arange(np.count_nonzero(~known))
        return number

    def _count(self, captions, numbers):
        lengths = lengths_of(captions)
        # Words that no reference has may join: the numbers are names, and theirs come after the references'.
        words = np.fromiter((self.words.setdefault(word, len(self.words))
                             for word in itertools.chain.from_iterable(captions)), np.int64, lengths.sum())
        caption = np.repeat(np.arange(len(captions)), lengths)
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the caption's end
        start, gram = np.arange(len(words)), words
        result = []
        for order in range(1, MAX_ORDER + 1):
            if order > 1:
                fits = left[start] >= order
                start = start[fits]
                keys, which = np.unique(pair(gram[fits], words[start + order - 1]), return_inverse=True)
                gram = numbers(order, keys)[which]
            entries, count = np.unique(pair(caption[start], gram), return_counts=True)
            result.append(Counts(entries >> 32, entries & 0xFFFFFFFF, count))
        return result


def lengths_of(captions):
    """Returns the number of tokens of each caption, (N,) int64."""
    return np.fromiter(map(len, captions), np.int64, len(captions))
