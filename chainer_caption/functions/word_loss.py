"""The loss of the words: output layer, log-softmax and gradient in one function that never holds more than a block.

With a vocabulary of ten thousand words the scores of one minibatch are the largest thing in training, and a stock
implementation holds them five times over (scores, log-probabilities, loss, and the gradients of two of them). Here the
scores of a block of rows are made, turned into their own gradient where they stand, multiplied into the gradients of
the layer, and dropped.
"""
import math

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.buffers import acquire, column_sums, release
from chainer_caption.functions.compiled import compiled, exp, parallel_for
from chainer_caption.functions.matmul import matmul, one_blas_thread

# The largest block of scores, in bytes. A block much smaller costs matrix products of awkward shape.
BLOCK_BYTES = 64 * 2 ** 20


def word_loss(h, W, b, targets, tokens=None, weights=None):
    """The mean negative log-probability of the target words, in nats per token.

    Equal to `softmax_cross_entropy(linear(h, W, b), targets)`, and with weights to the mean of its rows, each times its
    weight. The gradients are made on the way forward, unless
    `chainer.config.enable_backprop` is off.

    Args:
        h (chainer.Variable or array): The LSTM's outputs, (N, H) float32.
        W (chainer.Variable or array): The output layer's weights, (V, H) float32.
        b (chainer.Variable or array): The output layer's biases, (V,) float32.
        targets (array): The words to predict, (N,) int32, each in [0, V).
        tokens (float or None): What the sums over tokens are divided by; None for N. Processes that share a minibatch
            divide by its tokens and not by their own.
        weights (array or None): What each row's loss is multiplied by, of either sign, (N,) float32; None for 1.

    Returns:
        tuple of chainer.Variable: The loss and the accuracy (the fraction of the tokens whose word scores highest;
        a tie counts as right; unweighted), both () float32. Only the loss has gradients.
    """
    return _WordLoss(targets, tokens or len(targets), weights).apply((h, W, b))


class _WordLoss(chainer.FunctionNode):

    def __init__(self, targets, tokens, weights):
        self.targets = targets
        self.tokens = tokens
        self.weights = weights

    def forward(self, inputs):
        h, W, b = inputs
        xp = chainer.backend.get_array_module(h)
        n = len(h)
        block = max(1, BLOCK_BYTES // (W.shape[0] * W.itemsize))
        nats = xp.empty(n, h.dtype)
        right = xp.empty(n, np.bool_)
        keep = chainer.config.enable_backprop
        if keep:
            gh, gW, gb = xp.empty_like(h), None, None
            scale = xp.full(n, 1 / self.tokens, np.float32) if self.weights is None else \
                self.weights * np.float32(1 / self.tokens)
        with one_blas_thread():
            for start in range(0, n, block):
                rows = slice(start, min(start + block, n))
                scores = acquire(xp, (rows.stop - rows.start, W.shape[0]))
                matmul(h[rows], W.T, out=scores)
                row_losses(scores, b, self.targets[rows], nats[rows], right[rows], scale[rows] if keep else None)
                if keep:
                    matmul(scores, W, out=gh[rows])
                    # One block is the usual case; then its gradients are the sums already.
                    gW_block, gb_block = matmul(scores.T, h[rows]), column_sums(scores)
                    gW, gb = (gW_block, gb_block) if gW is None else (gW + gW_block, gb + gb_block)
                release(scores)
        if keep:
            self.gradients = gh, gW, gb
        if self.weights is not None:
            nats *= self.weights
        # Summed in float64: a mean that an early stop compares should not depend on the order of the rows.
        return tuple(xp.asarray(a.sum(dtype=np.float64) / self.tokens, h.dtype) for a in (nats, right))

    def backward(self, indexes, grad_outputs):
        return scaled(self.gradients, indexes, grad_outputs[0])


def scaled(gradients, indexes, gloss):
    """What a function node whose gradients were made on the way forward returns from its `backward`."""
    # On the CPU the usual factor, 1, is seen and saves three passes; on a GPU looking would wait for it.
    factor = None if gloss is None else gloss.array
    if factor is not None and isinstance(factor, np.ndarray) and factor == 1:
        return tuple(chainer.as_variable(gradients[i]) for i in indexes)
    return tuple(None if factor is None else chainer.as_variable(gradients[i] * factor) for i in indexes)


def row_losses(scores, b, targets, nats, right, scale=None):
    """Negative log-probabilities of the targets, row by row; with `scale` the scores become their gradient in place.

    Args:
        scores (array): h W^T, without the biases, (n, V) float32; overwritten.
        b (array): Biases, (V,) float32.
        targets (array): (n,) int32.
        nats (array): Out: -log softmax(scores + b)[target], (n,) float32.
        right (array): Out: whether no word scores higher than the target, (n,) bool.
        scale (array or None): With numbers, (n,) float32, row i of `scores` becomes
            scale[i] * (softmax(scores[i] + b) - onehot(targets[i])).
    """
    if isinstance(scores, cuda.ndarray):
        _row_losses_gpu(scores, b, targets, nats, right, scale)
    else:
        parallel_for(_row_losses, len(scores), scores, b, targets, nats, right,
                   np.empty(0, np.float32) if scale is None else scale)


@compiled
def _row_losses(scores, b, targets, nats, right, scale, start, stop):
    words = len(b)
    for i in range(start, stop):
        row = scores[i]
        top = np.float32(-np.inf)
        for j in range(words):
            row[j] += b[j]
            top = max(top, row[j])
        target = row[targets[i]]
        total = np.float32(0)
        for j in range(words):
            e = exp(row[j] - top)
            row[j] = e
            total += e
        nats[i] = np.float32(math.log(total)) + top - target
        right[i] = target >= top
        if len(scale):
            factor = scale[i] / total
            for j in range(words):
                row[j] *= factor
            row[targets[i]] -= scale[i]


def _row_losses_gpu(scores, b, targets, nats, right, scale):
    xp = cuda.cupy
    scores += b
    top = scores.max(axis=1)
    target = xp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
    xp.subtract(scores, top[:, None], out=scores)
    xp.exp(scores, out=scores)
    total = scores.sum(axis=1)
    nats[...] = xp.log(total) + top - target
    right[...] = target >= top
    if scale is not None:
        words = xp.arange(scores.shape[1], dtype=targets.dtype)
        gradient_kernel()(total[:, None], targets[:, None], words, scale[:, None], scores)


@cuda.memoize()
def gradient_kernel():
    """scale * (softmax - onehot) where exp(score - highest) stands, of (n, 1) totals, targets and scales."""
    return cuda.cupy.ElementwiseKernel(
        'T total, int32 target, int32 word, float32 scale', 'T score',
        'score = (T)scale * (score / total - (T)(word == target))', 'caption_word_gradient')
