"""`functions.select` on a GPU: five kernels, one upload, and one copy back, which is all that the host waits for.

A row of scores is cut among lanes: lane l has the words l, l + lanes, and so on. One reading of the scores gives each
lane's share of the log-softmax and its maximum. Dealt to more groups than k, a picture's lane maxima say how good its
k-th best continuation is at least: as good as the k-th best group's maximum. Whatever reaches that mark is collected,
from the few lanes whose maximum does; it is little more than k, and the host puts it in order.
"""
import numpy as np
from chainer.backends import cuda

_LANES = 128

# `banned` has a bit for each of the first words that is not to be said.
_MAY_BE_SAID = '''
__device__ __forceinline__ bool may_be_said(int word, int banned) { return word > 30 || !(banned >> word & 1); }
'''


# What a word loses: `fines` pairs of a word and a fine, from `first` on.
_FINE = '''
template <class Array>
__device__ __forceinline__ float fine_of(int word, const Array& facts, ptrdiff_t first, int fines) {
    float fine = 0;
    for (ptrdiff_t at = first; at < first + 2 * fines; at += 2) if (facts[at] == word) fine += (float)facts[at + 1];
    return fine;
}
'''


def collect(scores, bias, log_probs, bounds, k, floor, weight, banned, fined, fine):
    """The continuations among which each picture's k best are.

    Args:
        As `functions.select.select` has them, but that `banned` has a bit for each word, and the fines stand by
        themselves; `scores` stays as it is.

    Returns:
        tuple: `(count, score, place)`, float64. How many continuations were found for each picture, (n,); the first so
        many numbers of its row of `score`, (n, c), are theirs, in any order, and of `place`, (n, c), each of which is
        hypothesis * V + word. A count above c says that some are missing, because so many score the same.
    """
    xp = cuda.cupy
    rows, words = scores.shape
    pictures = len(bounds) - 1
    lanes = min(words, _LANES)
    # An odd number, so that a word that many of a picture's hypotheses want is in another group for each of them.
    groups = 4 * k + 1
    places = 2 * k + 32
    picture = np.repeat(np.arange(pictures), np.diff(bounds))
    facts = [log_probs, picture, floor, bounds, np.stack([fined, fine], axis=2).ravel()]
    ends = np.cumsum([len(fact) for fact in facts]).tolist()
    facts = xp.asarray(np.concatenate(facts))
    log_probs, picture, floor, bounds = (facts[end - size:end] for size, end
                                         in zip((rows, rows, pictures, pictures + 1), ends, strict=False))
    # Where the pairs of the first hypothesis begin, and how many each has.
    fines = facts, ends[3], fined.shape[1]
    top, total, best = (xp.empty((rows, lanes), np.float32) for _ in range(3))
    base, mark = xp.empty(rows), xp.empty(pictures)
    high = xp.empty((pictures, groups))
    found = xp.empty((pictures, 1 + 2 * places))        # the count, then pairs of a score and its place
    _lanes_kernel()(scores, bias, words, lanes, banned, *fines, -np.inf, top, total, best)
    _base_kernel()(log_probs, top, total, lanes, -np.inf, base)
    _groups_kernel()(best, base, bounds, lanes, groups, places, weight, -np.inf, high, mark, found)
    _mark_kernel()(high, high, groups, k, mark)
    _collect_kernel()(best, scores, bias, base, mark, floor, picture, words, lanes, banned, *fines, weight,
                      places, found)
    found = found.get()
    return found[:, 0], found[:, 1::2], found[:, 2::2]


@cuda.memoize()
def _lanes_kernel():
    # A sum of exponentials, over a maximum that is not known yet: it shrinks whenever a greater one is met.
    return cuda.cupy.ElementwiseKernel(
        'raw float32 scores, raw float32 bias, int32 words, int32 lanes, int32 banned, '
        'raw float64 facts, int32 first, int32 fines, float32 lowest',
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
            // The others need not be looked for among the fined.
            if (may_be_said(word, banned) && score > chosen) {
                chosen = max(chosen, score - fine_of(word, facts, first + i / lanes * 2 * fines, fines));
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
        'float64 high, raw float64 mark, raw float64 found',
        '''
        ptrdiff_t picture = i / groups;
        ptrdiff_t stop = (ptrdiff_t)bounds[picture + 1] * lanes;
        double most = lowest;
        for (ptrdiff_t lane = (ptrdiff_t)bounds[picture] * lanes + i % groups; lane < stop; lane += groups) {
            double score = weight * (base[lane / lanes] + best[lane]);
            if (score > most) most = score;
        }
        high = most;
        if (i % groups == 0) {
            mark[picture] = lowest;
            found[picture * (1 + 2 * places)] = 0;
        }
        ''', 'caption_select_groups')


@cuda.memoize()
def _mark_kernel():
    return cuda.cupy.ElementwiseKernel(
        'float64 mine, raw float64 high, int32 groups, int32 k', 'raw float64 mark',
        '''
        ptrdiff_t first = i - i % groups;
        int before = 0;
        for (ptrdiff_t other = first; other < first + groups; other++) {
            before += high[other] > mine || (high[other] == mine && other < i);
        }
        if (before == k - 1) mark[i / groups] = mine
        ''', 'caption_select_mark')


@cuda.memoize()
def _collect_kernel():
    return cuda.cupy.ElementwiseKernel(
        'float32 best, raw float32 scores, raw float32 bias, raw float64 base, raw float64 mark, raw float64 least, '
        'raw float64 picture, int32 words, int32 lanes, int32 banned, raw float64 facts, int32 first, int32 fines, '
        'float64 weight, int32 places',
        'raw float64 found',
        '''
        ptrdiff_t row = i / lanes, of = (ptrdiff_t)picture[row];
        if (weight * (base[row] + best) >= mark[of]) {
            for (int word = i % lanes; word < words; word += lanes) {
                float own = scores[row * words + word] + bias[word];
                own -= fine_of(word, facts, first + row * 2 * fines, fines);
                double score = weight * (base[row] + own);
                if (may_be_said(word, banned) && score >= mark[of] && score > least[of]) {
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
