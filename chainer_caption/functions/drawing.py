"""A word drawn from the softmax of a model's scores, by a number that follows from a key and a place alone."""
import math

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import HASH32_CUDA, compiled, exp, hash32, parallel_for

_BLOCK = 64


def draw(scores, bias, places, key, suppressed):
    """Draws a word for each row of scores.

    Args:
        scores (array): (n, V) float32, without the biases; becomes exp(score - highest), and zero for suppressed words.
        bias (array): (V,) float32.
        places (numpy.ndarray): What tells this drawing of a row from all others under the key, (n,) int.
        key: Two uint32 words.
        suppressed (sequence of int): Words that are not drawn.

    Returns:
        tuple: The words, (n,) int32; their log-probabilities among those that are not suppressed, nats, (n,) float32;
        and the sums of the rows that `scores` have become, (n,) float32.
    """
    xp = chainer.backend.get_array_module(scores)
    words, log_probs, totals = xp.empty(len(scores), np.int32), *xp.empty((2, len(scores)), np.float32)
    if xp is np:
        parallel_for(_draw, len(scores), scores, bias, places, *key, np.array(suppressed, np.int64), words, log_probs,
                     totals)
        return words, log_probs, totals
    scores += bias
    scores[:, list(suppressed)] = -np.inf
    scores -= scores.max(axis=1, keepdims=True)
    xp.exp(scores, out=scores)
    totals[...] = scores.sum(axis=1)
    uniform = _uniform_kernel()(xp.asarray(places), *key)
    reached = xp.cumsum(scores, axis=1, dtype=np.float64)
    words[...] = (reached < uniform[:, None] * reached[:, -1:]).sum(axis=1)
    log_probs[...] = xp.log(xp.take_along_axis(scores, words[:, None].astype(np.int64), axis=1)[:, 0] / totals)
    return words, log_probs, totals


@compiled
def _draw(scores, bias, places, key0, key1, suppressed, words, log_probs, totals, start, stop):
    for i in range(start, stop):
        row = scores[i]
        for j in range(len(row)):
            row[j] += bias[j]
        for j in suppressed:
            row[j] = np.float32(-np.inf)
        top = np.float32(-np.inf)
        for j in range(len(row)):
            top = max(top, row[j])
        total = np.float32(0)
        for j in range(len(row)):
            e = exp(row[j] - top)
            row[j] = e
            total += e
        for j in suppressed:
            total -= row[j]
            row[j] = np.float32(0)
        uniform = (hash32(np.uint32(places[i]), key0, key1) + 0.5) * 2.0 ** -32 * total
        # Sums of blocks first: adding up a row number by number would take longer than all the rest.
        word, reached = 0, 0.0
        while word + _BLOCK < len(row):
            block = np.float32(0)
            for j in range(word, word + _BLOCK):
                block += row[j]
            if reached + block >= uniform:
                break
            reached += block
            word += _BLOCK
        reached += row[word]
        while reached < uniform and word + 1 < len(row):
            word += 1
            reached += row[word]
        while row[word] == 0:                           # rounding, at the end of a row
            word -= 1
        words[i] = word
        log_probs[i] = math.log(row[word] / total)
        totals[i] = total


@cuda.memoize()
def _uniform_kernel():
    return cuda.cupy.ElementwiseKernel(
        'int64 place, uint32 key0, uint32 key1', 'float64 uniform',
        'uniform = (hash32((unsigned int)place, key0, key1) + 0.5) * 2.3283064365386963e-10', 'caption_uniform',
        preamble=HASH32_CUDA)
