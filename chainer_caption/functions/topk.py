"""The best continuations of a beam: the log-softmax and the top k in one reading of the scores.

Sorting width x vocabulary scores, or even their partial sort, costs more than the matrix product that made them. Here
the worst of the k best so far is a threshold, and almost every block of scores is passed over by its maximum alone.
"""
import math

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import compiled, exp, inlined, parallel_for
from chainer_caption.functions.topk_gpu import collect

_BLOCK = 128


def beam_topk(scores, bias, log_probs, bounds, k, threshold, weight, suppressed, penalties=None):
    """The k best continuations of each image's hypotheses.

    A continuation scores weight * (log_prob + log softmax(scores + bias)[word]). Of equal ones the hypothesis and then
    the word that comes first wins.

    Args:
        scores (array): (m, V) float32, NumPy or CuPy; not to be used after it.
        bias (array): (V,) float32.
        log_probs (numpy.ndarray): Of each hypothesis, nats, (m,) float64; an image's are in falling order.
        bounds (numpy.ndarray): Image p has the hypotheses bounds[p] to bounds[p + 1], (n + 1,) int.
        k (int): How many to choose.
        threshold (numpy.ndarray): What a continuation of each image must exceed, (n,) float64.
        weight (float): See above; positive.
        suppressed (sequence of int): Words never to choose, each below 31. Their probability goes to nobody.
        penalties (tuple of numpy.ndarray or None): Of each hypothesis words, -1 for none, (m, b) int, and what each of
            them loses, nats, not negative, (m, b) float64: infinity bans it. What stands twice loses both.

    Returns:
        tuple: `(score, hypothesis, word)`, each (n, k), best first: float64, and int64 places in 0..m and 0..V. Where
        an image has fewer, its score is -inf.
    """
    images = len(bounds) - 1
    penalized, penalty = (np.zeros((len(log_probs), 0)),) * 2 if penalties is None else penalties
    penalized, penalty = penalized.astype(np.int64), penalty.astype(np.float32)
    best = np.full((images, k), -np.inf)
    parent = np.zeros((images, k), np.int64)
    word = np.zeros((images, k), np.int64)
    if isinstance(scores, cuda.ndarray):
        _beam_topk_gpu(scores, bias, log_probs, bounds, threshold, weight, suppressed, penalized, penalty, best,
                       parent, word)
    else:
        parallel_for(_beam_topk, images, scores, bias, log_probs, bounds, threshold, weight, np.array(suppressed,
                                                                                                      np.int64),
                   penalized, penalty, best, parent, word)
    return best, parent, word


@inlined
def _subtract_penalties(row, penalized, penalty):
    for b in range(len(penalized)):
        if penalized[b] >= 0:
            row[penalized[b]] -= penalty[b]


@compiled
def _beam_topk(scores, bias, log_probs, bounds, threshold, weight, suppressed, penalized, penalty, best, parent, word,
               start, stop):
    k = best.shape[1]
    words = len(bias)
    for p in range(start, stop):
        least = threshold[p]
        for i in range(bounds[p], bounds[p + 1]):
            # Log-probabilities are never positive: what starts under the threshold stays there, and so do all after it.
            if log_probs[i] * weight <= least:
                break
            row = scores[i]
            top = np.float32(-np.inf)
            for j in range(words):
                row[j] += bias[j]
                top = max(top, row[j])
            total = np.float32(0)
            for j in range(words):
                total += exp(row[j] - top)
            base = log_probs[i] - (np.float64(top) + math.log(total))
            for j in suppressed:
                row[j] = np.float32(-np.inf)
            _subtract_penalties(row, penalized[i], penalty[i])
            for at in range(0, words, _BLOCK):
                end = min(at + _BLOCK, words)
                highest = np.float32(-np.inf)
                for j in range(at, end):
                    highest = max(highest, row[j])
                # Of a row that is nowhere finite, base is NaN, and nothing of it is above anything.
                if not weight * (base + highest) > least:
                    continue
                for j in range(at, end):
                    score = weight * (base + row[j])
                    if not score > least:
                        continue
                    # Insertion into a short sorted list, behind its equals.
                    place = k - 1
                    while place > 0 and best[p, place - 1] < score:
                        best[p, place] = best[p, place - 1]
                        parent[p, place] = parent[p, place - 1]
                        word[p, place] = word[p, place - 1]
                        place -= 1
                    best[p, place] = score
                    parent[p, place] = i
                    word[p, place] = j
                    least = max(least, best[p, k - 1])


def _beam_topk_gpu(scores, bias, log_probs, bounds, threshold, weight, suppressed, penalized, penalty, best, parent,
                   word):
    k, words = best.shape[1], scores.shape[1]
    count, score, place = collect(scores, bias, log_probs, bounds, k, threshold, weight,
                                  sum(1 << j for j in suppressed),
                                  penalized, penalty)
    there = np.arange(score.shape[1]) < count[:, None]
    score, place = np.where(there, score, -np.inf), np.where(there, place, 0).astype(np.int64)
    order = np.lexsort((place, -score))[:, :k]
    best[:], place = np.take_along_axis(score, order, 1), np.take_along_axis(place, order, 1)
    parent[:], word[:] = place // words, place % words
    crowded = np.flatnonzero(count > score.shape[1])
    if len(crowded):
        # So many equal scores, as of a model that has not learned, are for the host to go through.
        rows = np.concatenate([np.arange(bounds[p], bounds[p + 1]) for p in crowded])
        few = np.cumsum([0, *np.diff(bounds)[crowded]])
        theirs = cuda.to_cpu(scores[cuda.cupy.asarray(rows)])
        best[crowded], among, word[crowded] = beam_topk(theirs, cuda.to_cpu(bias), log_probs[rows], few, k,
                                                        threshold[crowded],
                                                     weight, suppressed, (penalized[rows], penalty[rows]))
        parent[crowded] = rows[among]
