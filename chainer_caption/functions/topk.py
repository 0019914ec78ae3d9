"""The best continuations of a beam: the log-softmax and the top k in one pass over the scores.

The worst of the k best so far is a threshold, and the maximum of a block of scores rules out almost every block.
(Sorting the scores, even partially, costs more than the matrix product that computes them.) """
import math
from collections.abc import Sequence

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import Array, compiled, inlined, parallel_for
from chainer_caption.functions.softmax import softmax_row
from chainer_caption.functions.topk_gpu import collect

_BLOCK = 128


def beam_topk(scores: Array, bias: Array, log_probs: np.ndarray, bounds: np.ndarray, k: int, threshold: np.ndarray,
              weight: float, suppressed: Sequence[int], penalties: tuple[np.ndarray, np.ndarray] | None = None,
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The k best continuations of each image's hypotheses.

    A continuation scores weight * (log_prob + log softmax(scores + bias)[word] - penalty). Of equal ones, the earlier
    hypothesis and then the smaller word id comes first.

    Args:
        scores, bias: (m, V) float32, NumPy or CuPy, the contents are lost; (V,) float32.
        log_probs: Of each hypothesis, nats, (m,) float64; those of an image in falling order.
        bounds: Image p has the hypotheses bounds[p] to bounds[p + 1], (n + 1,) int.
        threshold: Only scores above it are returned, (n,) float64.
        weight: See above; positive.
        suppressed: Words never to choose, each below 31. They keep their share of the probability.
        penalties: Of each hypothesis words, -1 for none, (m, b) int, and the penalty of each, nats, not negative,
            (m, b) float64; infinity bans the word. The penalties of a word that stands twice are added.

    Returns:
        `(score, hypothesis, word, value)`, each (n, k), best first: float64, int64 places in 0..m and 0..V, and the
        score without the penalty, float64. Where an image has fewer, its scores are -inf.
    """
    images = len(bounds) - 1
    penalized, penalty = (np.zeros((len(log_probs), 0)),) * 2 if penalties is None else penalties
    penalized, penalty = penalized.astype(np.int64), penalty.astype(np.float32)
    best, value = np.full((2, images, k), -np.inf)
    parent, word = np.zeros((2, images, k), np.int64)
    if isinstance(scores, cuda.ndarray):
        _beam_topk_gpu(scores, bias, log_probs, bounds, threshold, weight, suppressed, penalized, penalty, best,
                       parent, word, value)
    else:
        parallel_for(_beam_topk, images, scores, bias, log_probs, bounds, threshold, weight,
                     np.array(suppressed, np.int64), penalized, penalty, best, parent, word, value)
    return best, parent, word, value


@inlined
def _subtract_penalties(row, penalized, penalty, before):
    for b in range(len(penalized)):
        before[b] = row[penalized[b]]                   # of no word, -1, not used
    for b in range(len(penalized)):
        if penalized[b] >= 0:
            row[penalized[b]] -= penalty[b]


@compiled
def _beam_topk(scores, bias, log_probs, bounds, threshold, weight, suppressed, penalized, penalty, best, parent, word,
               value, start, stop):
    k, words = best.shape[1], len(bias)
    before = np.empty(penalized.shape[1], np.float32)    # scores of the penalized words without their penalties
    scratch = np.empty(words, np.float32)
    for p in range(start, stop):
        least = threshold[p]
        for i in range(bounds[p], bounds[p + 1]):
            # Log-probabilities are never positive: what starts under the threshold stays there, and so do all after it.
            if log_probs[i] * weight <= least:
                break
            row = scores[i]
            top, total = softmax_row(row, bias, scratch)
            base = log_probs[i] - (np.float64(top) + math.log(total))
            for j in suppressed:
                row[j] = np.float32(-np.inf)
            _subtract_penalties(row, penalized[i], penalty[i], before)
            for at in range(0, words, _BLOCK):
                end = min(at + _BLOCK, words)
                highest = np.float32(-np.inf)
                for j in range(at, end):
                    highest = max(highest, row[j])
                # If no score of the row is finite, base is NaN and no comparison is true.
                if not weight * (base + highest) > least:
                    continue
                for j in range(at, end):
                    score = weight * (base + row[j])
                    if not score > least:
                        continue
                    plain = score
                    for b in range(len(before)):
                        plain = weight * (base + before[b]) if penalized[i, b] == j else plain
                    # Insertion into a short sorted list, after equal scores.
                    place = k - 1
                    while place > 0 and best[p, place - 1] < score:
                        best[p, place], value[p, place] = best[p, place - 1], value[p, place - 1]
                        parent[p, place], word[p, place] = parent[p, place - 1], word[p, place - 1]
                        place -= 1
                    best[p, place], value[p, place], parent[p, place], word[p, place] = score, plain, i, j
                    least = max(least, best[p, k - 1])


def _beam_topk_gpu(scores, bias, log_probs, bounds, threshold, weight, suppressed, penalized, penalty, best, parent,
                   word, value):
    k, words = best.shape[1], scores.shape[1]
    count, score, place, plain = collect(scores, bias, log_probs, bounds, k, threshold, weight,
                                         sum(1 << j for j in suppressed), penalized, penalty)
    there = np.arange(score.shape[1]) < count[:, None]
    score, place = np.where(there, score, -np.inf), np.where(there, place, 0).astype(np.int64)
    order = np.lexsort((place, -score))[:, :k]
    best[:], place = np.take_along_axis(score, order, 1), np.take_along_axis(place, order, 1)
    value[:] = np.where(best > -np.inf, np.take_along_axis(plain, order, 1), -np.inf)
    parent[:], word[:] = place // words, place % words
    crowded = np.flatnonzero(count > score.shape[1])
    if len(crowded):
        # Very many equal scores, as of an untrained model: the host searches these images.
        rows = np.concatenate([np.arange(bounds[p], bounds[p + 1]) for p in crowded])
        few = np.cumsum([0, *np.diff(bounds)[crowded]])
        theirs = cuda.to_cpu(scores[cuda.cupy.asarray(rows)])
        best[crowded], among, word[crowded], value[crowded] = beam_topk(
            theirs, cuda.to_cpu(bias), log_probs[rows], few, k, threshold[crowded], weight, suppressed,
            (penalized[rows], penalty[rows]))
        parent[crowded] = rows[among]
