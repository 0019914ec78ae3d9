"""Samples the next words of captions from the softmax of a model's scores.

Each row has a random number of its own, a hash of a key and a position (see `functions.dropout`), so that a caption
depends on its own key alone, whatever else is in the batch, and a GPU samples what the CPU samples."""
import functools
import math
from collections.abc import Sequence

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import HASH32_CUDA, Array, compiled, exp, hash32, inlined, parallel_for
from chainer_caption.functions.softmax import softmax_row

_BLOCK = 64     # Running sums go by blocks: adding a row number by number would take longer than everything else.


def uniforms(keys: Array, positions: Array) -> Array:
    """Pseudo-random numbers between 0 and 1, both excluded.

    Args:
        keys: The key of each number, (n, 2) uint32, or one key for all, (2,) uint32; on the host.
        positions: Which number under its key it is, (n,) int, on the device where the numbers are wanted: (n,) float64.
    """
    if isinstance(positions, cuda.ndarray):
        return _uniform_kernel()(positions, *keys)
    found = np.empty(len(positions))
    _uniforms(np.ascontiguousarray(np.broadcast_to(keys, (len(positions), 2))), positions.astype(np.uint32), found)
    return found


@compiled
def _uniforms(keys, positions, found):
    for i in range(len(keys)):
        found[i] = (hash32(positions[i], keys[i, 0], keys[i, 1]) + 0.5) * 2.0 ** -32


_uniform_kernel = functools.partial(
    cuda.elementwise, 'int64 position, uint32 key0, uint32 key1', 'float64 uniform',
    'uniform = (hash32((unsigned int)position, key0, key1) + 0.5) * 2.3283064365386963e-10', 'caption_uniform',
    preamble=HASH32_CUDA)


def sample_words(scores: Array, bias: Array, uniforms: Array, suppressed: Sequence[int] = (),
                 repeats: np.ndarray | None = None, temperature: float = 1.0, top_k: int | None = None,
                 top_p: float | None = None, keep: bool = False) -> tuple[Array, Array, Array]:
    """Samples a word for each row of scores.

    The probability of a word is proportional to exp((score + bias) / temperature), among the words that are neither
    suppressed nor repeats; of these, among the `top_k` likeliest; of these, among the likeliest whose probabilities sum
    to `top_p` (Holtzman et al. 2020). Words as likely as the last one that is kept are kept as well.

    Args:
        scores: (n, V) float32, NumPy or CuPy; the contents are lost.
        bias: (V,) float32; -inf makes a word impossible.
        uniforms: The random numbers, (n,) float64; on the host or the device.
        suppressed: Words that are not sampled. Unlike those with a bias of -inf they count in the log-probabilities.
        repeats: Words that are not sampled in each row, -1 for none: (n, b) int, on the host.
        temperature, top_k, top_p: See above; positive; None for all words.
        keep: Whether `scores` becomes exp(score - highest) of the words that could be sampled, 0 for the others.

    Returns:
        `(words, log_probs, totals)` on the device of the scores: int64, -1 where no word is possible; float64, nats,
        log softmax(scores + bias) of each word; float32, the sums of exp(score - highest), (n,) each.
    """
    arguments = np.float32(temperature), min(top_k or len(bias), len(bias)), 1.0 if top_p is None else float(top_p)
    repeats = np.zeros((len(scores), 0), np.int64) if repeats is None else repeats.astype(np.int64)
    if isinstance(scores, cuda.ndarray):
        return _sample_gpu(scores, bias, uniforms, suppressed, repeats, *arguments, keep)
    words, log_probs, totals = np.empty(len(scores), np.int64), np.empty(len(scores)), np.empty(len(scores), np.float32)
    parallel_for(_sample, len(scores), scores, bias, uniforms, np.array(suppressed, np.int64), repeats, *arguments,
                 keep, words, log_probs, totals)
    return words, log_probs, totals


@compiled
def _sample(scores, bias, uniforms, suppressed, repeats, temperature, top_k, top_p, keep, words, log_probs, totals,
            start, stop):
    weights = np.empty(len(bias), np.float32)
    restricted = len(suppressed) > 0 or repeats.shape[1] > 0 or temperature != 1
    for i in range(start, stop):
        row = scores[i]
        best, total = softmax_row(row, bias, weights)
        norm = np.float64(best) + math.log(total)
        words[i], log_probs[i], totals[i] = -1, -np.inf, total
        if restricted:
            for j in suppressed:
                row[j] = np.float32(-np.inf)
            for j in repeats[i]:
                if j >= 0:
                    row[j] = np.float32(-np.inf)
            best = np.float32(-np.inf)
            for j in range(len(row)):
                best = max(best, row[j])
        if norm < np.inf and best > -np.inf:              # false of overflowing scores and of NaN
            if restricted:
                for j in range(len(row)):
                    weights[j] = row[j] - best
                for j in range(len(row)):                 # one array, as in softmax_row
                    weights[j] = exp(weights[j] / temperature)
            _filter(weights, top_k, top_p)
            words[i] = _pick(weights, uniforms[i])
            log_probs[i] = row[words[i]] - norm
        if keep:
            for j in range(len(row)):
                row[j] = weights[j]


@inlined
def _filter(weights, top_k, top_p):
    """Sets the weights to 0 that are not among the `top_k` largest or the largest that sum to `top_p`."""
    least = np.float32(0)
    if top_k < len(weights):
        least = np.partition(weights, len(weights) - top_k)[len(weights) - top_k]
    if top_p < 1:
        kept = weights[weights >= least]
        total = kept.astype(np.float64).sum()
        # All weights below this sum to less than what is left out, so they need not be sorted.
        kept = np.sort(kept[kept >= (1 - top_p) * total / len(kept)])
        reached, last = 0.0, len(kept)
        while last > 0 and reached < top_p * total:
            last -= 1
            reached += kept[last]
        least = kept[last]
    if least > 0:
        for j in range(len(weights)):
            if weights[j] < least:
                weights[j] = np.float32(0)


@inlined
def _pick(weights, uniform):
    """The first place at which the running sum reaches the fraction `uniform` of the whole sum."""
    total, word, reached = 0.0, 0, 0.0
    for j in range(len(weights)):
        total += weights[j]
    while word + _BLOCK < len(weights):
        block = 0.0
        for j in range(word, word + _BLOCK):
            block += weights[j]
        if reached + block >= uniform * total:
            break
        reached += block
        word += _BLOCK
    reached += weights[word]
    while reached < uniform * total and word + 1 < len(weights):
        word += 1
        reached += weights[word]
    while weights[word] == 0 and word > 0:              # rounding, at the end of a row
        word -= 1
    return word


def _sample_gpu(scores, bias, uniforms, suppressed, repeats, temperature, top_k, top_p, keep):
    xp = cuda.cupy
    scores += bias
    best = scores.max(axis=1, keepdims=True)
    weights = xp.exp(scores - best)
    totals = weights.sum(axis=1, keepdims=True)
    norm = best + xp.log(totals)
    if len(suppressed) or repeats.shape[1] or temperature != 1:
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
    possible = xp.isfinite(norm) & (best > -np.inf)
    if keep:
        scores[...] = weights
    return (xp.where(possible, words, -1)[:, 0], xp.where(possible, log_probs, -np.inf)[:, 0].astype(np.float64),
            totals[:, 0])
