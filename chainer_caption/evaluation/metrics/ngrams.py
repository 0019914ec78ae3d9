"""N-grams as numbers: BLEU and CIDEr count the n-grams of all captions at once.

An n-gram is identified by an integer, the number of its (n-1)-gram in the high and that of its last word in the low
half of 64 bits, and then by the rank of that integer among those of the references. Counting n-grams is sorting
integers and a lookup is a binary search, without any tuple of strings.
"""
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

MAX_ORDER = 4  # both metrics use 1-grams to 4-grams
# Gives the numbers of the n-grams of an order, for their sorted keys (see `pair`).
Number = Callable[[int, np.ndarray], np.ndarray]


def pair(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """One int64 for each pair of integers in [0, 2**31); the integers sort as the pairs do."""
    return high.astype(np.int64) << 32 | low


def find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of each key in a sorted table without repetitions, undefined where it is not there, and whether it is
    there."""
    place = np.searchsorted(table, keys)
    known = place < len(table)
    known[known] = table[place[known]] == keys[known]
    return place, known


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often each n-gram of one order occurs in each caption: arrays (E,) of int32, sorted by caption and n-gram."""
    caption: np.ndarray
    gram: np.ndarray
    count: np.ndarray


def count_ngrams(words: np.ndarray, lengths: np.ndarray, number: Number) -> Iterator[Counts]:
    """Counts the n-grams of captions, one order after another. `words`, (N,) int32, are the numbers of the words of all
    captions, one after another; `lengths`, int, those of each caption. `number` is asked from order 2 on."""
    lengths = lengths.astype(np.int32)
    caption = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    # Words from here to the caption's end.
    left = np.repeat(np.cumsum(lengths, dtype=np.int32), lengths) - np.arange(len(words), dtype=np.int32)
    start, gram = np.arange(len(words), dtype=np.int32), words
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            fits = left[start] >= order
            start = start[fits]
            keys, which = _ranked(pair(gram[fits], words[start + order - 1]))
            gram = number(order, keys).astype(np.int32)[which]
            del fits, keys, which                       # large, for a large dataset
        yield _counts(pair(caption[start], gram))


def _ranked(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different keys, sorted, and the place of each key among them, int32; `np.unique` takes twice the memory."""
    place = np.argsort(keys)
    keys = keys[place]
    new = differs(keys)
    which = np.empty(len(keys), np.int32)
    which[place] = np.cumsum(new, dtype=np.int32) - 1
    return keys[new], which


def differs(keys: np.ndarray) -> np.ndarray:
    """Whether each of the sorted keys differs from the one before, bool."""
    new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return new


def _counts(entries: np.ndarray) -> Counts:
    entries.sort()
    first = np.flatnonzero(differs(entries)).astype(np.int32)
    count = np.diff(first, append=np.int32(len(entries)))
    entries = entries[first]
    return Counts((entries >> 32).astype(np.int32), entries.astype(np.int32), count)


class NgramIndex:
    """Numbers the n-grams of references, sequences of tokens, and counts those of any captions by these numbers;
    `counts` are the `Counts` of the references for each order."""

    def __init__(self, captions: Sequence[Sequence[str]]) -> None:
        self._numbers: dict[str, int] = {}
        self._tables: list[np.ndarray] = []
        self.counts = self._count(captions, self._new_table)

    def count(self, captions: Sequence[Sequence[str]]) -> list[Counts]:
        """`Counts` of captions for each order. An n-gram that no reference has gets a number beyond those of the
        references, valid within this call only."""
        return self._count(captions, self._known_table)

    def _new_table(self, order: int, keys: np.ndarray) -> np.ndarray:
        self._tables.append(keys)
        return np.arange(len(keys))

    def _known_table(self, order: int, keys: np.ndarray) -> np.ndarray:
        table = self._tables[order - 2]
        number, known = find(table, keys)
        number[~known] = len(table) + np.arange(np.count_nonzero(~known))
        return number

    def _count(self, captions: Sequence[Sequence[str]], number: Number) -> list[Counts]:
        return list(count_ngrams(word_numbers(captions, self._numbers), lengths_of(captions), number))


def word_numbers(captions: Sequence[Sequence[str]], numbers: dict[str, int]) -> np.ndarray:
    """The numbers of the words of all captions, (N,) int32; words that have none yet get the next one."""
    return np.fromiter((numbers.setdefault(word, len(numbers)) for word in itertools.chain.from_iterable(captions)),
                       np.int32)


def lengths_of(captions: Sequence[Sequence]) -> np.ndarray:
    """The number of tokens of each caption, (N,) int64."""
    return np.fromiter(map(len, captions), np.int64, len(captions))
