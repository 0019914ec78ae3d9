"""The softmax of one row of scores, which the word loss, sampling, beam search and ensembles share."""

import functools

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import Array, compiled, exp, inlined, parallel_for


@inlined
def softmax_row(row, bias, out):
    """Adds the biases to a row of scores; `out`, which may be the row itself, becomes exp(score - highest). Returns the
    highest score and the sum of `out`: log softmax(row) is row - (highest + log(sum))."""
    top = np.float32(-np.inf)
    for j in range(len(row)):
        row[j] += bias[j]
        top = max(top, row[j])
    for j in range(len(row)):
        out[j] = row[j] - top
    # In a loop over one array: with two, the compiled code would choose between instructions that round differently by
    # how near the two lie in memory, and a resumed run would differ from one that was never stopped.
    total = np.float32(0)
    for j in range(len(row)):
        out[j] = e = exp(out[j])
        total += e
    return top, total


@inlined
def gradient_row(row, total, target, scale):
    """exp(score - highest) becomes scale * (softmax - onehot(target)), in place."""
    factor = scale / total
    for j in range(len(row)):
        row[j] *= factor
    row[target] -= scale


# As `gradient_row`, of (n, 1) totals, targets and scales.
gradient_kernel = functools.partial(
    cuda.elementwise, 'T total, int32 target, int32 word, float32 scale', 'T score',
    'score = (T)scale * (score / total - (T)(word == target))', 'caption_word_gradient')


def add_probabilities(scores: Array, bias: Array, share: np.float32, mean: Array) -> None:
    """Adds `share` * softmax(scores + bias) to `mean`, (n, V); the contents of `scores` are lost."""
    if not isinstance(scores, cuda.ndarray):
        parallel_for(_add, len(scores), scores, bias, share, mean)
        return
    scores += bias
    scores -= scores.max(axis=1, keepdims=True)
    cuda.cupy.exp(scores, out=scores)
    scores *= share / scores.sum(axis=1, keepdims=True)
    mean += scores


@compiled
def _add(scores, bias, share, mean, start, stop):
    for i in range(start, stop):
        row, into = scores[i], mean[i]
        _, total = softmax_row(row, bias, row)
        factor = share / total
        for j in range(len(row)):
            into[j] += factor * row[j]
