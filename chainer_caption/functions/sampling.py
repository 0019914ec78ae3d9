"""Captions drawn from a model, and the loss of just these captions: the drawing is the forward half of learning.

Self-critical training (Rennie et al. 2017) draws captions from the model, scores them, and follows the gradient of
their log-probabilities. Where there is no dropout, the LSTM and the softmax of the drawing are those of the loss. So
what they computed is kept, put into the packed order of a minibatch once the captions' lengths are known, and only the
backward half of an update is left to do.
"""
import dataclasses

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.buffers import column_sums
from chainer_caption.functions.compiled import compiled, parallel_for
from chainer_caption.functions.drawing import draw
from chainer_caption.functions.lstm import lstm_cell
from chainer_caption.functions.matmul import matmul, one_blas_thread, prepack
from chainer_caption.functions.word_loss import gradient_kernel, scaled

# Places of a caption that the numbers which are drawn tell apart.
_PLACES = 4096


@dataclasses.dataclass(frozen=True)
class Voice:
    """What an LSTM says captions of some images with.

    Attributes:
        count (int): n, the images.
        image (array or None): What it reads before any word, (n, H) float32; None for nothing.
        W (array): The word embeddings, (V, H) float32.
        lstm (tuple of array): W_x (4H, H), b (4H,) and W_h (4H, H), as `lstm_sequence` takes them.
        out (tuple of array): The output layer's W (V, H) and b (V,).
        joined (callable or None): Takes the LSTM's outputs (m, H) and the images that they are of, (m,) int on the
            host; gives what the output layer reads, (m, H). None where that is the LSTM's outputs.
    """
    count: int
    image: object
    W: object
    lstm: tuple
    out: tuple
    joined: object = None


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Captions as they were drawn, and what the drawing computed.

    Attributes:
        order (numpy.ndarray): Which image each caption is of, longest caption first, (B,) int64.
        captions (list of numpy.ndarray): The words of each, `</S>` last unless it was cut, int32; in the same order.
        log_probs (array): Of each word, packed, nats, (N,) float32.
        gates, c, h (array): The LSTM's, packed, (N, 4H), (N, H), (N, H) float32; where it has read the images, B rows
            of theirs come first.
        scores (array): exp(score - highest) of each word at each place, zero for what is never said: (N, V) float32.
        totals (array): Their sums, (N,) float32.
    """
    order: np.ndarray
    captions: list
    log_probs: object
    gates: object
    c: object
    h: object
    scores: object
    totals: object


def sample(voice, key, start, ends, suppressed, length, numbers=None):
    """Draws a caption for each image, word by word, from the softmax of the model's scores.

    Args:
        voice (Voice): Of n images.
        key: Two uint32 words, from `mask_key`; all that is drawn follows from them, on the CPU and on a GPU.
        start (int): The word that is read first.
        ends (int): The word that ends a caption.
        suppressed (sequence of int): Words that are not said; the others share their probability.
        length (int): Words at most, `ends` among them; a caption that has not ended then is cut.
        numbers (numpy.ndarray or None): What tells each row's drawings from the others' under the key, (n,) int;
            processes that share a minibatch give the places in the whole of it. None for 0 to n - 1.

    Returns:
        Sampled: The captions.

    Raises:
        ValueError: `length` is more than can be drawn.
    """
    if not 1 <= length <= _PLACES:
        raise ValueError(f'captions of {length} words; 1 to {_PLACES} can be drawn')
    numbers = np.arange(voice.count) if numbers is None else numbers

    def choose(scores, rows, place):
        words, log_probs, totals = draw(scores, voice.out[1], numbers[rows] * _PLACES + place, key, suppressed)
        return cuda.to_cpu(words), log_probs, totals
    return _packed(voice.count, *_speak(voice, start, ends, length, choose))


def greedy(voice, start, ends, suppressed, length):
    """The caption of each image that has the likeliest word at each place; arguments as for `sample`.

    Returns:
        list of numpy.ndarray: The words of each image's caption, `ends` last unless it was cut, int32.
    """
    xp = chainer.backend.get_array_module(voice.W)

    def choose(scores, rows, place):
        scores += voice.out[1]
        scores[:, list(suppressed)] = -np.inf
        return cuda.to_cpu(xp.argmax(scores, axis=1).astype(np.int32)),

    captions = [[] for _ in range(voice.count)]
    for rows, *_, words in _speak(voice, start, ends, length, choose)[1]:
        for row, word in zip(rows, words, strict=True):
            captions[row].append(word)
    return [np.array(caption, np.int32) for caption in captions]


def _speak(voice, start, ends, length, choose):
    """Reads the images and says words until all captions have ended.

    Args:
        choose (callable): Takes the scores, without the biases, the rows that they are of, and the place of the word;
            gives the words, a numpy.ndarray, and perhaps more.

    Returns:
        tuple of list: The step that reads the images, if there is one, then those of the words. A step is a tuple: the
        rows that were still speaking, gates, c, h, and for words also the scores and what `choose` gave.
    """
    xp = chainer.backend.get_array_module(voice.W)
    W_x, b, W_h = voice.lstm
    W_x, W_h, W_out = W_x.T, W_h.T, voice.out[0].T
    if xp is np:
        # BLAS would lay them out anew for each product, which takes longer than a product with a dozen rows.
        W_x, W_h, W_out = (prepack(np.ascontiguousarray(W)) for W in (W_x, W_h, W_out))
    rows, words = np.arange(voice.count), np.full(voice.count, start, np.int32)
    # A word's share of the gates is the same wherever it stands: it is computed when the word first comes up.
    word_gates, known = xp.empty((len(voice.W), len(b)), np.float32), np.zeros(len(voice.W), bool)
    c = h = xp.zeros((voice.count, W_h.shape[0]), np.float32)
    read, said = [], []
    with one_blas_thread():
        if voice.image is not None:
            gates = matmul(voice.image, W_x)
            c, h = _step(gates, xp.zeros_like(gates), c, b)
            read = [(rows, gates, c, h)]
        for place in range(length):
            new = np.unique(words[~known[words]])
            if len(new):
                known[new], new = True, xp.asarray(new)
                word_gates[new] = matmul(voice.W[new], W_x)
            gates = word_gates[xp.asarray(words)]
            c, h = _step(gates, matmul(h, W_h), c, b)
            scores = matmul(voice.joined(h, rows) if voice.joined else h, W_out)
            words, *more = choose(scores, rows, place)
            said.append((rows, gates, c, h, scores, *more, words))
            alive = np.flatnonzero(words != ends)
            if not len(alive):
                break
            rows, words = rows[alive], words[alive]
            c, h = c[xp.asarray(alive)], h[xp.asarray(alive)]
    return read, said


def _step(gates, recurrent, c0, b):
    c, h = (chainer.backend.get_array_module(gates).empty_like(c0) for _ in range(2))
    lstm_cell(gates, recurrent, b, c0, c, h)
    return c, h


def _packed(count, read, said):
    """What the steps have computed, in the order of a packed minibatch of the same captions."""
    lengths = np.zeros(count, np.int64)
    for rows, *_ in said:
        lengths[rows] += 1
    order = np.argsort(-lengths, kind='stable')
    rank = np.argsort(order)

    def packed(steps, *fields):
        # Where each step begins, and the fields. No caption that is alive at a step is shorter than one that is not:
        # they are the first of the order.
        bounds = np.cumsum([0, *(len(rows) for rows, *_ in steps)])
        arrays = []
        for field in fields:
            part = steps[0][field]
            library = chainer.backend.get_array_module(part)
            arrays.append(library.empty((int(bounds[-1]), *part.shape[1:]), part.dtype))
            for at, step in zip(bounds, steps, strict=False):
                arrays[-1][library.asarray(at + rank[step[0]])] = step[field]
        return bounds, *arrays

    at, scores, log_probs, totals, words = packed(said, 4, 5, 6, 7)
    _, gates, c, h = packed(read + said, 1, 2, 3)
    captions = [words[at[:lengths[row]] + i] for i, row in enumerate(order)]
    return Sampled(order, captions, log_probs, gates, c, h, scores, totals)


def sampled_loss(h, W, b, sampled, targets, weights):
    """The weighted negative log-probability of captions that were drawn.

    Equal to `word_loss` with these weights and as many tokens, of a softmax without the suppressed words.

    Args:
        h (chainer.Variable): The LSTM's outputs, packed, (N, H) float32.
        W (chainer.Variable or array): The output layer's weights, (V, H) float32.
        b (chainer.Variable or array): The output layer's biases, (V,) float32.
        sampled (Sampled): The captions; its scores are used up.
        targets (array): Their words, packed, (N,) int32.
        weights (array): What each word's loss is multiplied by, (N,) float32.

    Returns:
        chainer.Variable: The sum over words, () float32.
    """
    return _SampledLoss(sampled, targets, weights).apply((h, W, b))[0]


class _SampledLoss(chainer.FunctionNode):

    def __init__(self, sampled, targets, weights):
        self.sampled, self.targets, self.weights = sampled, targets, weights

    def forward(self, inputs):
        h, W, _ = inputs
        xp = chainer.backend.get_array_module(h)
        scores = self.sampled.scores
        if xp is np:
            parallel_for(_gradients, len(scores), scores, self.sampled.totals, self.targets, self.weights)
        else:
            words = xp.arange(scores.shape[1], dtype=self.targets.dtype)
            gradient_kernel()(self.sampled.totals[:, None], self.targets[:, None], words, self.weights[:, None], scores)
        with one_blas_thread():
            self.gradients = matmul(scores, W), matmul(scores.T, h), column_sums(scores)
        return xp.asarray(-(self.sampled.log_probs * self.weights).sum(dtype=np.float64), h.dtype),

    def backward(self, indexes, grad_outputs):
        return scaled(self.gradients, indexes, grad_outputs[0])


@compiled
def _gradients(scores, totals, targets, weights, start, stop):
    for i in range(start, stop):
        row = scores[i]
        factor = weights[i] / totals[i]
        for j in range(len(row)):
            row[j] *= factor
        row[targets[i]] -= weights[i]
