"""METEOR by NLTK, where WordNet's data is on this machine. Nothing is ever downloaded from here.

NLTK's METEOR is not the Java program behind published COCO figures: it follows the metric of 2007 (exact words, stems,
WordNet's synonyms; alpha 0.9, beta 3, gamma 0.5), has no paraphrase table and no function-word weights, matches
greedily, and looks synonyms up by the stem ('automobile' finds none, as 'automobil' is no word). Compare its figures
with one another only. Stems and synonyms are English.
"""
from __future__ import annotations

import zipfile
from collections.abc import Sequence

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.checks import checked_predictions, checked_references


def meteor_missing() -> str | None:
    """None where METEOR can be computed, else one line on how to get what is missing."""
    from nltk.corpus import wordnet  # slow to import
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError, zipfile.BadZipFile):
        return "METEOR needs WordNet's data: python -c \"import nltk; nltk.download('wordnet')\""
    return None


class MeteorScorer:
    """NLTK's METEOR, the best over an image's references. An empty prediction scores 0.

    Args:
        references: For each of N images, its references (at least one), each a sequence of tokens.

    Raises:
        chainer_caption.errors.InputError: WordNet's data is not there; the message says how to get it.
    """

    def __init__(self, references: Sequence) -> None:
        missing = meteor_missing()
        if missing:
            raise InputError(missing)
        self._references = checked_references(references)

    def score(self, predictions: Sequence) -> tuple[dict, dict]:
        """Scores one prediction an image.

        Args:
            predictions: N sequences of tokens.

        Returns:
            tuple: ``{'METEOR': float}`` in [0, 1], the mean over images, and ``{'METEOR': array}``, (N,), each
            image's own.
        """
        from nltk.translate.meteor_score import meteor_score
        predictions = checked_predictions(predictions, len(self._references))
        each = np.array([meteor_score(references, prediction)
                         for prediction, references in zip(predictions, self._references, strict=True)])
        return {'METEOR': float(each.mean())}, {'METEOR': each}
