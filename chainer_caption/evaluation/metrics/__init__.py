"""Metrics of captions: BLEU, ROUGE-L and CIDEr as the public COCO caption code computes them, without Java.

A caption is a sequence of tokens, which are strings, or empty. The figures equal pycocoevalcap's on the same tokens
joined with spaces; a token that itself holds white space counts as one word here and as several there. `score` scores a
set of captions; a `Scorer` prepares references once, to score against them repeatedly.
"""
from chainer_caption.evaluation.metrics.bleu import BleuScorer
from chainer_caption.evaluation.metrics.cider import CiderScorer
from chainer_caption.evaluation.metrics.diversity import distinct_ngrams, diversity
from chainer_caption.evaluation.metrics.meteor import MeteorScorer, meteor_missing
from chainer_caption.evaluation.metrics.rouge import RougeScorer
from chainer_caption.evaluation.metrics.scorer import METRICS, Scorer, score

__all__ = ['METRICS', 'BleuScorer', 'CiderScorer', 'MeteorScorer', 'RougeScorer', 'Scorer', 'distinct_ngrams',
           'diversity', 'meteor_missing', 'score']
