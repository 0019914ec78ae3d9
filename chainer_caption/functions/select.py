"""The best continuations of a beam: the log-softmax and the top k in one reading of the scores.

Sorting width x vocabulary scores, or even their partial sort, costs more than the matrix product that made them. Here
the worst of the k best so far is a threshold, and almost every block of scores is passed over by its maximum alone.
"""
import math

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import compiled, exp, in_threads

_BLOCK = 128


def select(scores, bias, log_probs, bounds, k, floor, weight, banned):
    """The k best continuations of each picture's hypotheses.

    A continuation scores weight * (log_prob + log softmax(scores + bias)[word]). Of equal ones the hypothesis and then
    the word that comes first wins.

    Args:
        scores (array): (m, V) float32, NumPy or CuPy; overwritten.
        bias (array): (V,) float32.
        log_probs (numpy.ndarray): Of each hypothesis, nats, (m,) float64; a picture's are in falling order.
        bounds (numpy.ndarray): Picture p has the hypotheses bounds[p] to bounds[p + 1], (n + 1,) int.
        k (int): How many to choose.
        floor (numpy.ndarray): What a continuation of each picture must exceed, (n,) float64.
        weight (float): See above; positive.
        banned (int): A word never to choose, or -1. Its probability goes to nobody.

    Returns:
        tuple: `(score, hypothesis, word)`, each (n, k), best first: float64, and int64 places in 0..m and 0..V. Where
        a picture has fewer, its score is -inf.
    """
    pictures = len(bounds) - 1
    best = np.full((pictures, k), -np.inf)
    parent = np.zeros((pictures, k), np.int64)
    word = np.zeros((pictures, k), np.int64)
    if isinstance(scores, cuda.ndarray):
        _select_gpu(scores, bias, log_probs, bounds, floor, weight, banned, best, parent, word)
    else:
        in_threads(_select, pictures, scores, bias, log_probs, bounds, floor, weight, banned, best, parent, word)
    return best, parent, word


@compiled
def _select(scores, bias, log_probs, bounds, floor, weight, banned, best, parent, word, start, stop):
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
            if banned >= 0:
                row[banned] = np.float32(-np.inf)
            for at in range(0, words, _BLOCK):
                end = min(at + _BLOCK, words)
                highest = np.float32(-np.inf)
                for j in range(at, end):
                    highest = max(highest, row[j])
                if weight * (base + highest) <= mark:
                    continue
                for j in range(at, end):
                    score = weight * (base + row[j])
                    if score <= mark:
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


def _select_gpu(scores, bias, log_probs, bounds, floor, weight, banned, best, parent, word):
    # k times the maximum of all continuations of a picture. Memory is quick on a GPU, sorting is not.
    xp = cuda.cupy
    pictures, k = best.shape
    hypotheses = np.diff(bounds)
    most = int(hypotheses.max())
    words = scores.shape[1]
    scores += bias
    top = scores.max(axis=1)
    base = xp.asarray(log_probs, np.float32) - top - xp.log(xp.exp(scores - top[:, None]).sum(axis=1))
    scores += base[:, None]
    scores *= np.float32(weight)
    if banned >= 0:
        scores[:, banned] = -np.inf
    # Pictures with fewer hypotheses than others are filled up with impossible ones.
    table = xp.full((pictures * most, words), -np.inf, np.float32)
    place = np.repeat(np.arange(pictures) * most - bounds[:-1], hypotheses) + np.arange(len(scores))
    table[xp.asarray(place)] = scores
    table = table.reshape(pictures, most * words)
    rows = xp.arange(pictures)
    chosen = xp.empty((k, pictures), np.int64)
    values = xp.empty((k, pictures), np.float32)
    for n in range(min(k, most * words)):
        chosen[n] = table.argmax(axis=1)
        values[n] = table[rows, chosen[n]]
        table[rows, chosen[n]] = -np.inf
    n = min(k, most * words)
    best[:, :n] = cuda.to_cpu(values[:n]).T
    at = cuda.to_cpu(chosen[:n]).T
    best[best <= floor[:, None]] = -np.inf
    parent[:, :n] = np.minimum(at // words + bounds[:-1, None], len(scores) - 1)
    word[:, :n] = at % words
