"""BLEU (Papineni et al. 2002) of a corpus and of each of its captions, as the COCO caption code has it."""
import itertools
from collections.abc import Sequence

import numpy as np

from chainer_caption.evaluation.metrics.checks import checked_predictions, checked_references
from chainer_caption.evaluation.metrics.ngrams import MAX_ORDER, Counts, NgramIndex, find, lengths_of, pair

# The COCO code's own smoothing. An order with no match gives 1e-15 over the number of n-grams, in place of zero, and
# a caption too short to have n-grams of an order gives 1e-15 / 1e-9.
TINY, SMALL = 1e-15, 1e-9


class BleuScorer:
    """BLEU-1 to BLEU-4 against references (see `Scorer`) that are prepared once.

    The reference length is that of the reference closest in length to the prediction, the shorter of two equally close.
    An empty prediction scores 0 (the brevity penalty underflows), also where a reference is empty too."""

    def __init__(self, references: Sequence) -> None:
        references = checked_references(references)
        self._lengths = [sorted(map(len, captions)) for captions in references]
        image = np.repeat(np.arange(len(references)), lengths_of(references))
        self._index = NgramIndex(list(itertools.chain.from_iterable(references)))
        self._most = [_most_in_any_reference(counts, image) for counts in self._index.counts]

    def score(self, predictions: Sequence) -> tuple[dict, dict]:
        """Scores N predictions, sequences of tokens: the corpus's figures, ``{'BLEU-1': float, ..., 'BLEU-4': float}``
        in [0, 1], and the same names with arrays (N,), each prediction's own. The corpus's are not their means."""
        predictions = checked_predictions(predictions, len(self._lengths))
        length = lengths_of(predictions)
        guessed = np.maximum(length[:, None] - np.arange(MAX_ORDER), 0)
        correct = np.stack([_clipped(counts, most, len(predictions)) for counts, most
                            in zip(self._index.count(predictions), self._most, strict=True)], axis=1)
        closest = np.array([min((abs(reference - own), reference) for reference in lengths)[1]
                            for lengths, own in zip(self._lengths, length.tolist(), strict=True)])
        each = _bleu(correct, guessed, length, closest)
        corpus = _bleu(correct.sum(0), guessed.sum(0), length.sum(), closest.sum())
        names = [f'BLEU-{order}' for order in range(1, MAX_ORDER + 1)]
        return dict(zip(names, corpus.tolist(), strict=True)), dict(zip(names, each.T, strict=True))


def _most_in_any_reference(counts: Counts, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most often that any one reference of an image has an n-gram: sorted (image, n-gram) keys, and counts."""
    keys, which = np.unique(pair(image[counts.caption], counts.gram), return_inverse=True)
    most = np.zeros(len(keys), np.int64)
    np.maximum.at(most, which, counts.count)
    return keys, most


def _clipped(counts: Counts, reference: tuple[np.ndarray, np.ndarray], predictions: int) -> np.ndarray:
    """How many n-grams of each prediction are right, none of them counted more often than in a reference: (N,)."""
    keys, most = reference
    place, known = find(keys, pair(counts.caption, counts.gram))
    matched = np.minimum(counts.count[known], most[place[known]])
    return np.bincount(counts.caption[known], matched, minlength=predictions)


def _bleu(correct: np.ndarray, guessed: np.ndarray, length: np.ndarray, closest: np.ndarray) -> np.ndarray:
    """BLEU of orders 1 to 4, (..., 4), from counts (..., 4) and lengths (...)."""
    precision = np.cumprod((correct + TINY) / (guessed + SMALL), axis=-1)
    ratio = (length + TINY) / (closest + SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return precision ** (1 / np.arange(1, MAX_ORDER + 1)) * brevity[..., None]
