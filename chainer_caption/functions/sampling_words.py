"""Drawing the next words of captions: of the model's softmax, tempered, and of its likeliest words alone if asked for.

The numbers that decide are made on the host, a hash of a key and a place (see functions.dropout), so that a caption
follows from its own key, whatever is drawn beside it, and a GPU draws what the CPU draws.
"""
import math

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import compiled, exp, hash32, inlined, parallel_for


def uniforms(keys, places):
    """Numbers between 0 and 1 that look random.

    Args:
        keys (numpy.ndarray): The key of each, (n, 2) uint32.
        places (numpy.ndarray): Which number under its key it is, (n,) int.

    Returns:
        numpy.ndarray: (n,) float64; neither 0 nor 1 is among them.
    """
    found = np.empty(len(keys))
    _uniforms(keys, places.astype(np.uint32), found)
    return found


@compiled
def _uniforms(keys, places, found):
    for i in range(len(keys)):
        found[i] = (hash32(places[i], keys[i, 0], keys[i, 1]) + 0.5) * 2.0 ** -32


def sample_words(scores, bias, uniforms, suppressed, repeats, temperature=1.0, top_k=None, top_p=None):
    """Draws a word for each row of scores.

    Words are drawn with probabilities proportional to exp((score + bias) / temperature), among those that are neither
    suppressed nor repeats; of these among the `top_k` likeliest; of these among the likeliest that have together, in
    what is left, the probability `top_p` (Holtzman et al. 2020). Those as likely as the last of them are among them.

    Args:
        scores (array): (n, V) float32, NumPy or CuPy; not to be used after it.
        bias (array): (V,) float32.
        uniforms (numpy.ndarray): The numbers that decide, (n,) float64.
        suppressed (sequence of int): Words that are not drawn.
        repeats (numpy.ndarray): Words that are not drawn in each row, -1 for none: (n, b) int.
        temperature (float): See above; positive.
        top_k (int or None): See above; None is all of them.
        top_p (float or None): See above; None is 1.

    Returns:
        tuple: The words, (n,) int64, -1 where there is none; and their log-probabilities, nats, (n,) float64: those of
        log softmax(scores + bias), whatever was drawn among.
    """
    arguments = np.float32(temperature), min(top_k or len(bias), len(bias)), 1.0 if top_p is None else top_p
    if isinstance(scores, cuda.ndarray):
        return _sample_words_gpu(scores, bias, uniforms, suppressed, repeats, *arguments)
    words, log_probs = np.empty(len(scores), np.int64), np.empty(len(scores))
    parallel_for(_sample_words, len(scores), scores, bias, uniforms, np.array(suppressed, np.int64),
                 repeats.astype(np.int64),
               *arguments, words, log_probs)
    return words, log_probs


@compiled
def _sample_words(scores, bias, uniforms, suppressed, repeats, temperature, top_k, top_p, words, log_probs, start,
                  stop):
    weights = np.empty(len(bias), np.float32)
    for i in range(start, stop):
        row = scores[i]
        norm = _add_bias(row, bias)
        for j in suppressed:
            row[j] = np.float32(-np.inf)
        for j in repeats[i]:
            if j >= 0:
                row[j] = np.float32(-np.inf)
        best = np.float32(-np.inf)
        for j in range(len(row)):
            best = max(best, row[j])
        words[i], log_probs[i] = -1, -np.inf
        if norm < np.inf and best > -np.inf:              # not of what overflows, nor of NaN
            for j in range(len(row)):
                weights[j] = exp((row[j] - best) / temperature) if row[j] > -np.inf else np.float32(0)
            words[i] = _drawn(weights, _least(weights, top_k, top_p), uniforms[i])
            log_probs[i] = row[words[i]] - norm


@inlined
def _add_bias(row, bias):
    """The logarithm of the sum of the exponentials."""
    top = np.float32(-np.inf)
    for j in range(len(row)):
        row[j] += bias[j]
        top = max(top, row[j])
    total = np.float32(0)
    for j in range(len(row)):
        total += exp(row[j] - top)
    return np.float64(top) + math.log(total)


@inlined
def _least(weights, top_k, top_p):
    """What a weight must be for its word to be drawn among."""
    least = np.float32(0)
    if top_k < len(weights):
        least = np.partition(weights, len(weights) - top_k)[len(weights) - top_k]
    if top_p < 1:
        kept = weights[weights >= least]
        total = kept.astype(np.float64).sum()
        # What is below this has in all less than is left out, so none of it need be put in order.
        kept = np.sort(kept[kept >= (1 - top_p) * total / len(kept)])
        reached, last = 0.0, len(kept)
        while last > 0 and reached < top_p * total:
            last -= 1
            reached += kept[last]
        least = kept[last]
    return least


@inlined
def _drawn(weights, least, uniform):
    total = 0.0
    for j in range(len(weights)):
        if weights[j] >= least:
            total += weights[j]
    word, reached = -1, 0.0
    for j in range(len(weights)):
        if weights[j] >= least and weights[j] > 0:
            word = j                                    # the last one, should rounding let none reach it
            reached += weights[j]
            if reached >= uniform * total:
                break
    return word


def _sample_words_gpu(scores, bias, uniforms, suppressed, repeats, temperature, top_k, top_p):
    xp = cuda.cupy
    scores += bias
    top = scores.max(axis=1, keepdims=True)
    norm = top + xp.log(xp.exp(scores - top).sum(axis=1, keepdims=True))
    for word in suppressed:
        scores[:, word] = -np.inf
    rows, places = np.nonzero(repeats >= 0)
    if len(rows):
        rows, words = xp.asarray(np.stack([rows, repeats[rows, places]]))
        scores[rows, words] = -np.inf
    best = scores.max(axis=1, keepdims=True)
    weights = xp.exp((scores - best) / temperature)
    if top_k < len(bias) or top_p < 1:
        ordered = -xp.sort(-weights, axis=1)
        least = ordered[:, top_k - 1:top_k]
        ordered = xp.where(ordered >= least, ordered, np.float32(0))
        reached = xp.cumsum(ordered, axis=1, dtype=np.float64)
        last = (reached < top_p * reached[:, -1:]).sum(axis=1, keepdims=True)
        least = xp.take_along_axis(ordered, last, axis=1)
        weights = xp.where(weights >= least, weights, np.float32(0))
    reached = xp.cumsum(weights, axis=1, dtype=np.float64)
    words = (reached < xp.asarray(uniforms)[:, None] * reached[:, -1:]).sum(axis=1, keepdims=True)
    log_probs = xp.take_along_axis(scores, words, axis=1) - norm
    there = xp.isfinite(norm) & (best > -np.inf)
    found = xp.concatenate([xp.where(there, words, -1), xp.where(there, log_probs, -np.inf)], axis=1).get()
    return found[:, 0].astype(np.int64), found[:, 1]
