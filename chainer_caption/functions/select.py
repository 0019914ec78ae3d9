"""The best continuations of a beam: the log-softmax and the top k in one reading of the scores.

Sorting width x vocabulary scores, or even their partial sort, costs more than the matrix product that made them. Here
the worst of the k best so far is a threshold, and almost every block of scores is passed over by its maximum alone.
"""
import math

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import compiled, exp, in_threads, inlined
from chainer_caption.functions.select_gpu import collect

_BLOCK = 128


def select(scores, bias, log_probs, bounds, k, floor, weight, banned, fines=None):
    """The k best continuations of each picture's hypotheses.

    A continuation scores weight * (log_prob + log softmax(scores + bias)[word]). Of equal ones the hypothesis and then
    the word that comes first wins.

    Args:
        scores (array): (m, V) float32, NumPy or CuPy; not to be used after it.
        bias (array): (V,) float32.
        log_probs (numpy.ndarray): Of each hypothesis, nats, (m,) float64; a picture's are in falling order.
        bounds (numpy.ndarray): Picture p has the hypotheses bounds[p] to bounds[p + 1], (n + 1,) int.
        k (int): How many to choose.
        floor (numpy.ndarray): What a continuation of each picture must exceed, (n,) float64.
        weight (float): See above; positive.
        banned (sequence of int): Words never to choose, each below 31. Their probability goes to nobody.
        fines (tuple of numpy.ndarray or None): Of each hypothesis words, -1 for none, (m, b) int, and what each of them
            loses, nats, not negative, (m, b) float64: infinity bans it. What stands twice loses both.

    Returns:
        tuple: `(score, hypothesis, word)`, each (n, k), best first: float64, and int64 places in 0..m and 0..V. Where
        a picture has fewer, its score is -inf.
    """
    pictures = len(bounds) - 1
    fined, fine = (np.zeros((len(log_probs), 0)),) * 2 if fines is None else fines
    fined, fine = fined.astype(np.int64), fine.astype(np.float32)
    best = np.full((pictures, k), -np.inf)
    parent = np.zeros((pictures, k), np.int64)
    word = np.zeros((pictures, k), np.int64)
    if isinstance(scores, cuda.ndarray):
        _select_gpu(scores, bias, log_probs, bounds, floor, weight, banned, fined, fine, best, parent, word)
    else:
        in_threads(_select, pictures, scores, bias, log_probs, bounds, floor, weight, np.array(banned, np.int64),
                   fined, fine, best, parent, word)
    return best, parent, word


@inlined
def _take_fines(row, fined, fine):
    for b in range(len(fined)):
        if fined[b] >= 0:
            row[fined[b]] -= fine[b]


@compiled
def _select(scores, bias, log_probs, bounds, floor, weight, banned, fined, fine, best, parent, word, start, stop):
    k = best.shape[1]
    words = len(bias)
    for p in range(start, stop):
        mark = floor[p]
        for i in range(bounds[p], bounds[p + 1]):
            # Log-probabilities are never positive: what starts under the mark stays there, and so do all after it.
            if log_probs[i] * weight <= mark:
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
            for j in banned:
                row[j] = np.float32(-np.inf)
            _take_fines(row, fined[i], fine[i])
            for at in range(0, words, _BLOCK):
                end = min(at + _BLOCK, words)
                highest = np.float32(-np.inf)
                for j in range(at, end):
                    highest = max(highest, row[j])
                # Of a row that is nowhere finite, base is NaN, and nothing of it is above anything.
                if not weight * (base + highest) > mark:
                    continue
                for j in range(at, end):
                    score = weight * (base + row[j])
                    if not score > mark:
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
                    mark = max(mark, best[p, k - 1])


def _select_gpu(scores, bias, log_probs, bounds, floor, weight, banned, fined, fine, best, parent, word):
    k, words = best.shape[1], scores.shape[1]
    count, score, place = collect(scores, bias, log_probs, bounds, k, floor, weight, sum(1 << j for j in banned),
                                  fined, fine)
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
        best[crowded], among, word[crowded] = select(theirs, cuda.to_cpu(bias), log_probs[rows], few, k, floor[crowded],
                                                     weight, banned, (fined[rows], fine[rows]))
        parent[crowded] = rows[among]
