"""`functions.select` on a GPU: five kernels, one upload, and one copy back, which is all that the host waits for.

A row of scores is cut among lanes: lane l has the words l, l + lanes, and so on. One reading of the scores gives each
lane's share of the log-softmax and its maximum. Dealt to more groups than k, an image's lane maxima say how good its
k-th best continuation is at least: as good as the k-th best group's maximum. Whatever reaches that threshold is
collected, from the few lanes whose maximum does; it is little more than k, and the host puts it in order.
"""
import numpy as np
from chainer.backends import cuda

_LANES = 128

# `suppressed` has a bit for each of the first words that is not to be said.
_MAY_BE_SAID = '''
__device__ __forceinline__ bool is_allowed(int word, int suppressed) { return word > 30 || !(suppressed >> word & 1); }
'''


# What a word loses: `penalties` pairs of a word and a penalty, from `first` on.
_FINE = '''
template <class Array>
__device__ __forceinline__ float fine_of(int word, const Array& facts, ptrdiff_t first, int penalties) {
    float penalty = 0;
    for (ptrdiff_t at = first; at < first + 2 * penalties; at += 2)
        if (facts[at] == word) penalty += (float)facts[at + 1];
    return penalty;
}
'''


def collect(scores, bias, log_probs, bounds, k, threshold, weight, suppressed, penalized, penalty):
    """The continuations among which each image's k best are.

    Args:
        As `functions.select.select` has them, but that `suppressed` has a bit for each word, and the penalties stand by
        themselves; `scores` stays as it is.

    Returns:
        tuple: `(count, score, place)`, float64. How many continuations were found for each image, (n,); the first so
        many numbers of its row of `score`, (n, c), are theirs, in any order, and of `place`, (n, c), each of which is
        hypothesis * V + word. A count above c says that some are missing, because so many score the same.
    """
    xp = cuda.cupy
    rows, words = scores.shape
    images = len(bounds) - 1
    lanes = min(words, _LANES)
    # An odd number, so that a word that many of an image's hypotheses want is in another group for each of them.
    groups = 4 * k + 1
    places = 2 * k + 32
    image = np.repeat(np.arange(images), np.diff(bounds))
    facts = [log_probs, image, threshold, bounds, np.stack([penalized, penalty], axis=2).ravel()]
    ends = np.cumsum([len(fact) for fact in facts]).tolist()
    facts = xp.asarray(np.concatenate(facts))
    log_probs, image, threshold, bounds = (facts[end - size:end] for size, end
                                         in zip((rows, rows, images, images + 1), ends, strict=False))
    # Where the pairs of the first hypothesis begin, and how many each has.
    penalties = facts, ends[3], penalized.shape[1]
    top, total, best = (xp.empty((rows, lanes), np.float32) for _ in range(3))
    base, reached = xp.empty(rows), xp.empty(images)
    high = xp.empty((images, groups))
    found = xp.empty((images, 1 + 2 * places))        # the count, then pairs of a score and its place
    _lanes_kernel()(scores, bias, words, lanes, suppressed, *penalties, -np.inf, top, total, best)
    _base_kernel()(log_probs, top, total, lanes, -np.inf, base)
    _groups_kernel()(best, base, bounds, lanes, groups, places, weight, -np.inf, high, reached, found)
    _threshold_kernel()(high, high, groups, k, reached)
    _collect_kernel()(best, scores, bias, base, threshold, threshold, image, words, lanes, suppressed, *penalties,
                      weight,
                      places, found)
    found = found.get()
    return found[:, 0], found[:, 1::2], found[:, 2::2]


@cuda.memoize()
def _lanes_kernel():
    # A sum of exponentials, over a maximum that is not known yet: it shrinks whenever a greater one is met.
    return cuda.cupy.ElementwiseKernel(
        'raw float32 scores, raw float32 bias, int32 words, int32 lanes, int32 suppressed, '
        'raw float64 facts, int32 first, int32 penalties, float32 lowest',
        'float32 top, float32 total, float32 best',
        '''
        ptrdiff_t row = i / lanes * words;
        float high = lowest, sum = 0, chosen = lowest;
        for (int word = i % lanes; word < words; word += lanes) {
            float score = scores[row + word] + bias[word];
            if (score > high) {
                sum = sum * exp(high - score) + 1;
                high = score;
            } else if (score != lowest) {
                sum += exp(score - high);
            }
            // The others need not be looked for among the penalized.
            if (is_allowed(word, suppressed) && score > chosen) {
                chosen = max(chosen, score - fine_of(word, facts, first + i / lanes * 2 * penalties, penalties));
            }
        }
        top = high;
        total = sum;
        best = chosen
        ''', 'caption_select_lanes', preamble=_MAY_BE_SAID + _FINE)


@cuda.memoize()
def _base_kernel():
    # What a hypothesis adds to the scores of its words: its log-probability, less the logarithm of their sum.
    return cuda.cupy.ElementwiseKernel(
        'float64 log_prob, raw float32 top, raw float32 total, int32 lanes, float32 lowest', 'float64 base',
        '''
        ptrdiff_t first = i * lanes;
        float high = lowest;
        for (int lane = 0; lane < lanes; lane++) {
            if (top[first + lane] > high) high = top[first + lane];
        }
        double sum = 0;
        for (int lane = 0; lane < lanes; lane++) {
            sum += total[first + lane] * exp(top[first + lane] - high);
        }
        base = log_prob - (high + log(sum))
        ''', 'caption_select_base')


@cuda.memoize()
def _groups_kernel():
    return cuda.cupy.ElementwiseKernel(
        'raw float32 best, raw float64 base, raw float64 bounds, int32 lanes, int32 groups, int32 places, '
        'float64 weight, float64 lowest',
        'float64 high, raw float64 threshold, raw float64 found',
        '''
        ptrdiff_t image = i / groups;
        ptrdiff_t stop = (ptrdiff_t)bounds[image + 1] * lanes;
        double most = lowest;
        for (ptrdiff_t lane = (ptrdiff_t)bounds[image] * lanes + i % groups; lane < stop; lane += groups) {
            double score = weight * (base[lane / lanes] + best[lane]);
            if (score > most) most = score;
        }
        high = most;
        if (i % groups == 0) {
            threshold[image] = lowest;
            found[image * (1 + 2 * places)] = 0;
        }
        ''', 'caption_select_groups')


@cuda.memoize()
def _threshold_kernel():
    return cuda.cupy.ElementwiseKernel(
        'float64 mine, raw float64 high, int32 groups, int32 k', 'raw float64 threshold',
        '''
        ptrdiff_t first = i - i % groups;
        int before = 0;
        for (ptrdiff_t other = first; other < first + groups; other++) {
            before += high[other] > mine || (high[other] == mine && other < i);
        }
        if (before == k - 1) threshold[i / groups] = mine
        ''', 'caption_select_mark')


@cuda.memoize()
def _collect_kernel():
    return cuda.cupy.ElementwiseKernel(
        'float32 best, raw float32 scores, raw float32 bias, raw float64 base, raw float64 threshold, raw float64 '
        'least, '
        'raw float64 image, int32 words, int32 lanes, int32 suppressed, raw float64 facts, int32 first, int32 '
        'penalties, '
        'float64 weight, int32 places',
        'raw float64 found',
        '''
        ptrdiff_t row = i / lanes, of = (ptrdiff_t)image[row];
        if (weight * (base[row] + best) >= threshold[of]) {
            for (int word = i % lanes; word < words; word += lanes) {
                float own = scores[row * words + word] + bias[word];
                own -= fine_of(word, facts, first + row * 2 * penalties, penalties);
                double score = weight * (base[row] + own);
                if (is_allowed(word, suppressed) && score >= threshold[of] && score > least[of]) {
                    ptrdiff_t at = of * (1 + 2 * places);
                    int taken = (int)atomicAdd(&found[at], 1.0);
                    if (taken < places) {
                        found[at + 1 + 2 * taken] = score;
                        found[at + 2 + 2 * taken] = (double)(row * words + word);
                    }
                }
            }
        }
        ''', 'caption_select_collect', preamble=_MAY_BE_SAID + _FINE)
