"""METEOR by NLTK, where WordNet's data is on this machine. Nothing is ever downloaded from here.

NLTK's METEOR is not the Java program behind published COCO figures: it follows the metric of 2007 (exact words, stems,
WordNet's synonyms; alpha 0.9, beta 3, gamma 0.5), has no paraphrase table and no function-word weights, matches
greedily, and looks synonyms up by the stem ('automobile' finds none, as 'automobil' is no word). Compare its figures
with one another only. Stems and synonyms are English.
"""
import zipfile
from collections.abc import Iterable, Sequence

from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.checks import ImageScorer


def meteor_missing() -> str | None:
    """None where METEOR can be computed, else one line on how to get what is missing."""
    from nltk.corpus import wordnet  # slow to import
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError, zipfile.BadZipFile):
        return "METEOR needs WordNet's data: python -c \"import nltk; nltk.download('wordnet')\""
    return None


class MeteorScorer(ImageScorer):
    """NLTK's METEOR, the best over an image's references. An empty prediction scores 0. Raises InputError where
    WordNet's data is not there; the message tells how to get it."""
    name = 'METEOR'

    def __init__(self, references: Iterable) -> None:
        missing = meteor_missing()
        if missing:
            raise InputError(missing)
        super().__init__(references)

    def of_image(self, prediction: Sequence, references: Sequence) -> float:
        from nltk.translate.meteor_score import meteor_score
        return meteor_score(references, prediction)
