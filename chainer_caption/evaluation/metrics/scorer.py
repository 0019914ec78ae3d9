"""Several metrics, by name, over one set of references."""
from collections.abc import Iterable, Sequence
from typing import Any

from chainer_caption.evaluation.metrics.bleu import BleuScorer
from chainer_caption.evaluation.metrics.checks import checked_references
from chainer_caption.evaluation.metrics.cider import CiderScorer
from chainer_caption.evaluation.metrics.meteor import MeteorScorer
from chainer_caption.evaluation.metrics.rouge import RougeScorer

METRICS: dict[str, Any] = {'BLEU': BleuScorer, 'ROUGE-L': RougeScorer, 'CIDEr': CiderScorer, 'METEOR': MeteorScorer}
DEFAULT = ('BLEU', 'ROUGE-L', 'CIDEr')


class Scorer:
    """Some of the metrics in :data:`METRICS`, against references that are prepared once.

    Args:
        references: For each of N images, its references (at least one), each a sequence of tokens.
        metrics: Names of metrics; 'METEOR', which needs data and much more time, only if asked for.

    Raises:
        ValueError: A metric has no such name, there is no image, or one has no reference.
        TypeError: A reference is a string where its tokens are wanted.
        chainer_caption.errors.InputError: METEOR's data is not on this machine.
    """

    def __init__(self, references: Iterable, metrics: Sequence[str] = DEFAULT) -> None:
        unknown = [name for name in metrics if name not in METRICS]
        if unknown:
            raise ValueError(f'no metric {unknown[0]!r}; there are {", ".join(METRICS)}')
        references = checked_references(references)
        self._scorers = [METRICS[name](references) for name in metrics]

    def score(self, predictions: Iterable) -> tuple[dict[str, float], dict]:
        """Scores N predictions, sequences of tokens: the corpus's figures, ``{'BLEU-1': float, ..., 'CIDEr': float}``,
        fractions, and those of each image under the same names, arrays (N,) of float64. The scorers define them."""
        corpus, each = {}, {}
        for scorer in self._scorers:
            figures, own = scorer.score(predictions)
            corpus.update(figures)
            each.update(own)
        return corpus, each


def score(references: Iterable, predictions: Iterable, metrics: Sequence[str] = DEFAULT) -> dict[str, float]:
    """Scores a set of captions, one sequence of tokens for each image: ``{'BLEU-1': float, ..., 'BLEU-4': float,
    'ROUGE-L': float, 'CIDEr': float}``, fractions. Arguments and errors are those of :class:`Scorer`."""
    return Scorer(references, metrics).score(predictions)[0]
