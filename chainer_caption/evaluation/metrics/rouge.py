"""ROUGE-L (Lin 2004), the longest common subsequence of two captions, as the COCO caption code has it."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chainer_caption.evaluation.metrics.checks import checked_predictions, checked_references

BETA = 1.2  # weighs recall against precision


class RougeScorer:
    """ROUGE-L: the F-measure of the best precision and the best recall over an image's references.

    An empty caption counts as one empty word, as in the COCO code. So it never divides by zero, scores 0 against
    references with words, and 1 where one of them is empty as well.

    Args:
        references: For each of N images, its references (at least one), each a sequence of tokens.
    """

    def __init__(self, references: Sequence) -> None:
        self._references = [[caption or ('',) for caption in captions] for captions in checked_references(references)]

    def score(self, predictions: Sequence) -> tuple[dict, dict]:
        """Scores one prediction an image.

        Args:
            predictions: N sequences of tokens.

        Returns:
            tuple: ``{'ROUGE-L': float}`` in [0, 1], the mean over images, and ``{'ROUGE-L': array}``, (N,), each
            image's own.
        """
        predictions = checked_predictions(predictions, len(self._references))
        each = np.array([_rouge_l(prediction or ('',), references)
                         for prediction, references in zip(predictions, self._references, strict=True)])
        return {'ROUGE-L': float(each.mean())}, {'ROUGE-L': each}


def _rouge_l(prediction: Sequence, references: Sequence) -> float:
    common = lcs_lengths(prediction, references)
    precision = max(common) / len(prediction)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if not recall:
        return 0.0
    return (1 + BETA ** 2) * precision * recall / (recall + BETA ** 2 * precision)


def lcs_lengths(prediction: Sequence, references: Sequence) -> list[int]:
    """The length of the longest common subsequence of the prediction and each reference.

    The table of the textbook's algorithm changes by 0 or 1 from one column to the next, so a row of it is the bits of
    one integer, and a reference's word costs a few operations on it (Hyyrö 2004, "Bit-parallel LCS-length computation
    revisited"). A zero bit is a step up.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(prediction):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(prediction)) - 1
    lengths = []
    for reference in references:
        row = full
        for word in reference:
            matches = row & places.get(word, 0)
            row = ((row + matches) | (row - matches)) & full
        lengths.append(len(prediction) - row.bit_count())
    return lengths
