"""Metrics of captions: BLEU, ROUGE-L and CIDEr as the public COCO caption code computes them, without Java.

Everything here takes *tokens*: a caption is a sequence of strings, and the empty caption is the empty sequence. Making
tokens of text is done elsewhere. The figures equal pycocoevalcap's on the same tokens joined with spaces; a token that
itself holds white space counts as one word here and as several there.

One call scores a set of captions::

    score(references, predictions)         # {'BLEU-1': 0.59, ..., 'BLEU-4': 0.15, 'ROUGE-L': 0.39, 'CIDEr': 0.34}

To score against the same references repeatedly, for example every epoch, use a :class:`Scorer`, which prepares them
once.
"""
from chainer_caption.evaluation.metrics.bleu import BleuScorer
from chainer_caption.evaluation.metrics.cider import CiderScorer
from chainer_caption.evaluation.metrics.diversity import distinct_ngrams, diversity
from chainer_caption.evaluation.metrics.meteor import MeteorScorer, meteor_missing
from chainer_caption.evaluation.metrics.rouge import RougeScorer
from chainer_caption.evaluation.metrics.scorer import METRICS, Scorer, score

__all__ = ['METRICS', 'BleuScorer', 'CiderScorer', 'MeteorScorer', 'RougeScorer', 'Scorer', 'distinct_ngrams',
           'diversity', 'meteor_missing', 'score']
