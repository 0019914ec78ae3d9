"""`functions.beam_topk` on a GPU: five kernels, one upload, and one copy back, for which the host waits once.

Lane l of a row of scores has the words l, l + lanes, and so on. One pass over the scores gives the sum of exponentials
and the maximum of each lane. The lane maxima of an image are dealt to more than k groups: its k-th best continuation is
at least as good as the maximum of the k-th best group. Continuations that reach this threshold, little more than k, are
collected from the few lanes whose maximum does, and the host sorts them."""
import functools

import numpy as np
from chainer.backends import cuda

_LANES = 128

# `suppressed` has a bit for each suppressed word.
_ALLOWED = '''
__device__ __forceinline__ bool is_allowed(int word, int suppressed) { return word > 30 || !(suppressed >> word & 1); }
'''

# The penalty of a word: `penalties` pairs of a word and a penalty, from `first` on.
_PENALTY = '''
template <class Array>
__device__ __forceinline__ float penalty_of(int word, const Array& facts, ptrdiff_t first, int penalties) {
    float penalty = 0;
    for (ptrdiff_t at = first; at < first + 2 * penalties; at += 2)
        if (facts[at] == word) penalty += (float)facts[at + 1];
    return penalty;
}
'''


def collect(scores: cuda.ndarray, bias: cuda.ndarray, log_probs: np.ndarray, bounds: np.ndarray, k: int,
            threshold: np.ndarray, weight: float, suppressed: int, penalized: np.ndarray, penalty: np.ndarray,
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The continuations among which each image's k best are; arguments as for `beam_topk`, but `suppressed` has a bit
    for each word, and `scores` is not changed.

    Returns:
        `(count, score, place, value)`, float64: the number of continuations found for each image, (n,); in any order,
        that many scores, places (hypothesis * V + word) and scores without the penalties, (n, c) each. A count above c
        means that some are missing, because so many score the same.
    """
    xp, images, (rows, words) = cuda.cupy, len(bounds) - 1, scores.shape
    # An odd number of groups, so that the same word of several hypotheses of an image is in different ones.
    lanes, groups, places = min(words, _LANES), 4 * k + 1, 2 * k + 32
    image = np.repeat(np.arange(images), np.diff(bounds))
    facts = [log_probs, image, threshold, bounds, np.stack([penalized, penalty], axis=2).ravel()]
    ends = np.cumsum([len(fact) for fact in facts]).tolist()
    facts = xp.asarray(np.concatenate(facts))
    log_probs, image, threshold, bounds = (facts[end - size:end] for size, end
                                         in zip((rows, rows, images, images + 1), ends, strict=False))
    # Where the pairs of the first hypothesis begin, and how many each has.
    penalties = facts, ends[3], penalized.shape[1]
    top, total, best = (xp.empty((rows, lanes), np.float32) for _ in range(3))
    base, reached, high = xp.empty(rows), xp.empty(images), xp.empty((images, groups))
    found = xp.empty((images, 1 + 3 * places))        # the count, then scores, places, values in turn
    _lanes_kernel()(scores, bias, words, lanes, suppressed, *penalties, -np.inf, top, total, best)
    _base_kernel()(log_probs, top, total, lanes, -np.inf, base)
    _groups_kernel()(best, base, bounds, lanes, groups, places, weight, -np.inf, high, reached, found)
    _threshold_kernel()(high, high, groups, k, reached)
    _collect_kernel()(best, scores, bias, base, reached, threshold, image, words, lanes, suppressed, *penalties, weight,
                      places, found)
    found = found.get()
    return found[:, 0], found[:, 1::3], found[:, 2::3], found[:, 3::3]


# A sum of exponentials relative to the maximum so far: it is rescaled whenever a greater one is met.
_lanes_kernel = functools.partial(
    cuda.elementwise, 'raw float32 scores, raw float32 bias, int32 words, int32 lanes, int32 suppressed, '
    'raw float64 facts, int32 first, int32 penalties, float32 lowest', 'float32 top, float32 total, float32 best', '''
    ptrdiff_t row = i / lanes * words;
    float high = lowest, sum = 0, chosen = lowest;
    for (int word = i % lanes; word < words; word += lanes) {
        float score = scores[row + word] + bias[word];
        if (score > high) {
            sum = sum * exp(high - score) + 1;
            high = score;
        } else if (score != lowest) sum += exp(score - high);
        // The penalties of other words do not matter.
        if (is_allowed(word, suppressed) && score > chosen)
            chosen = max(chosen, score - penalty_of(word, facts, first + i / lanes * 2 * penalties, penalties));
    }
    top = high; total = sum; best = chosen''', 'caption_topk_lanes', preamble=_ALLOWED + _PENALTY)

# What a hypothesis adds to the scores of its words: its log-probability, less the logarithm of their sum.
_base_kernel = functools.partial(
    cuda.elementwise, 'float64 log_prob, raw float32 top, raw float32 total, int32 lanes, float32 lowest',
    'float64 base', '''
    ptrdiff_t first = i * lanes;
    float high = lowest;
    for (int lane = 0; lane < lanes; lane++) if (top[first + lane] > high) high = top[first + lane];
    double sum = 0;
    for (int lane = 0; lane < lanes; lane++) sum += total[first + lane] * exp(top[first + lane] - high);
    base = log_prob - (high + log(sum))''', 'caption_topk_base')

_groups_kernel = functools.partial(
    cuda.elementwise, 'raw float32 best, raw float64 base, raw float64 bounds, int32 lanes, int32 groups, '
    'int32 places, float64 weight, float64 lowest', 'float64 high, raw float64 threshold, raw float64 found', '''
    ptrdiff_t image = i / groups, stop = (ptrdiff_t)bounds[image + 1] * lanes;
    double most = lowest;
    for (ptrdiff_t lane = (ptrdiff_t)bounds[image] * lanes + i % groups; lane < stop; lane += groups) {
        double score = weight * (base[lane / lanes] + best[lane]);
        if (score > most) most = score;
    }
    high = most;
    if (i % groups == 0) {
        threshold[image] = lowest;
        found[image * (1 + 3 * places)] = 0;
    }''', 'caption_topk_groups')

_threshold_kernel = functools.partial(
    cuda.elementwise, 'float64 mine, raw float64 high, int32 groups, int32 k', 'raw float64 threshold', '''
    ptrdiff_t first = i - i % groups;
    int before = 0;
    for (ptrdiff_t other = first; other < first + groups; other++)
        before += high[other] > mine || (high[other] == mine && other < i);
    if (before == k - 1) threshold[i / groups] = mine''', 'caption_topk_mark')

_collect_kernel = functools.partial(
    cuda.elementwise, 'float32 best, raw float32 scores, raw float32 bias, raw float64 base, raw float64 threshold, '
    'raw float64 least, raw float64 image, int32 words, int32 lanes, int32 suppressed, raw float64 facts, '
    'int32 first, int32 penalties, float64 weight, int32 places', 'raw float64 found', '''
    ptrdiff_t row = i / lanes, of = (ptrdiff_t)image[row];
    if (weight * (base[row] + best) >= threshold[of]) {
        for (int word = i % lanes; word < words; word += lanes) {
            float plain = scores[row * words + word] + bias[word];
            float own = plain - penalty_of(word, facts, first + row * 2 * penalties, penalties);
            double score = weight * (base[row] + own);
            if (is_allowed(word, suppressed) && score >= threshold[of] && score > least[of]) {
                ptrdiff_t at = of * (1 + 3 * places);
                int taken = (int)atomicAdd(&found[at], 1.0);
                if (taken < places) {
                    found[at + 1 + 3 * taken] = score;
                    found[at + 2 + 3 * taken] = (double)(row * words + word);
                    found[at + 3 + 3 * taken] = weight * (base[row] + plain);
                }
            }
        }
    }''', 'caption_topk_collect', preamble=_ALLOWED + _PENALTY)
