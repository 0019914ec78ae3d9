"""The word loss: output layer, log-softmax and gradient in one function that holds one block of scores at a time.

The scores of one minibatch are the largest array of training, and a stock implementation holds them five times over
(scores, log-probabilities, loss, and the gradients of two of them). Here the scores of a block of rows are computed,
become their own gradient in place, are multiplied into the gradients of the layer, and are dropped."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.buffers import acquire, column_sums, release
from chainer_caption.functions.compiled import Array, check_ids, compiled, parallel_for
from chainer_caption.functions.first_order import first_order
from chainer_caption.functions.matmul import matmul, one_blas_thread
from chainer_caption.functions.softmax import gradient_kernel, gradient_row, softmax_row

if TYPE_CHECKING:
    from chainer_caption.functions.rollout import Sampled

BLOCK_BYTES = 64 * 2 ** 20      # The largest block of scores. A much smaller one costs products of awkward shape.


def word_loss(h: Array, W: Array, b: Array, targets: Array, tokens: float | None = None, weights: Array | None = None,
              computed: Sampled | None = None) -> tuple[chainer.Variable, chainer.Variable]:
    """The mean negative log-probability of the target words, in nats per token: `softmax_cross_entropy(linear(h, W, b),
    targets)`, and with weights the mean of its rows, each times its weight.

    Args:
        h, W, b: The inputs of the output layer, (N, H), its weights, (V, H), and its biases, (V,), float32.
        targets: The words to predict, (N,) int32, each in [0, V): on the CPU, an IndexError says if one is not.
        tokens: The divisor of the sums over tokens: those of the whole minibatch, if processes share it; None for N.
        weights: The factor of each row's loss, of either sign, (N,) float32; None for 1.
        computed: Sampled captions whose words are the targets and whose `scores` are kept: they are not computed
            again, are used up, and the accuracy is 0.

    Returns:
        The loss and the accuracy (the fraction of the tokens whose word has the highest score; a tie counts as right;
        unweighted), both () float32. Only the loss has gradients; they are computed in the forward pass.

    """
    return _WordLoss(targets, tokens or len(targets), weights, computed).apply((h, W, b))


class _WordLoss(chainer.FunctionNode):
    def __init__(self, targets: Array, tokens: float, weights: Array | None, computed: Sampled | None) -> None:
        self.targets, self.tokens, self.weights, self.computed = targets, tokens, weights, computed

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        h, W, b = inputs
        xp = chainer.backend.get_array_module(h)
        check_ids(self.targets, len(W))
        n, computed = len(h), self.computed
        block = n if computed else max(1, BLOCK_BYTES // (W.shape[0] * W.itemsize))
        nats = -computed.log_probs if computed else xp.empty(n, h.dtype)
        right = xp.zeros(n, np.bool_)
        keep = chainer.config.enable_backprop
        if keep:
            gh, gW, gb = xp.empty_like(h), None, None
            scale = xp.full(n, 1 / self.tokens, np.float32) if self.weights is None else \
                self.weights * np.float32(1 / self.tokens)
        with one_blas_thread():
            for start in range(0, n, block):
                rows = slice(start, min(start + block, n))
                if computed:
                    scores: Array = computed.scores
                    if keep:
                        _gradients(scores, computed.totals, self.targets, scale)
                else:
                    scores = acquire(xp, (rows.stop - rows.start, W.shape[0]))
                    matmul(h[rows], W.T, out=scores)
                    row_losses(scores, b, self.targets[rows], nats[rows], right[rows], scale[rows] if keep else None)
                if keep:
                    matmul(scores, W, out=gh[rows])
                    # One block is the usual case; its gradients are the sums already.
                    gW_block, gb_block = matmul(scores.T, h[rows]), column_sums(scores)
                    gW, gb = (gW_block, gb_block) if gW is None else (gW + gW_block, gb + gb_block)
                if not computed:
                    release(scores)
        if keep:
            self.gradients = gh, gW, gb
        if self.weights is not None:
            nats *= self.weights
        # Summed in float64: a mean that early stopping compares should not depend on the order of the rows.
        return tuple(xp.asarray(a.sum(dtype=np.float64) / self.tokens, h.dtype) for a in (nats, right))

    @first_order
    def backward(self, indexes: tuple[int, ...], gloss: Array | None, _: Array | None) -> tuple[Array | None, ...]:
        if gloss is None:
            return None, None, None
        # On the CPU the usual factor, 1, is recognised and saves three passes; on a GPU, reading it would wait.
        if isinstance(gloss, np.ndarray) and gloss == 1:
            return self.gradients
        return tuple(self.gradients[i] * gloss if i in indexes else None for i in range(3))


def row_losses(scores: Array, b: Array, targets: Array, nats: Array, right: Array, scale: Array | None = None) -> None:
    """Negative log-probabilities of the targets, (n,) int32, row by row.

    Args:
        scores, b: h W^T, without the biases, (n, V) float32, overwritten; biases, (V,) float32.
        nats: Output: -log softmax(scores + b)[target], (n,) float32.
        right: Output: whether no word scores higher than the target, (n,) bool.
        scale: (n,) float32: row i of `scores` becomes scale[i] * (softmax(scores[i] + b) - onehot(targets[i])).
    """
    if isinstance(scores, cuda.ndarray):
        _row_losses_gpu(scores, b, targets, nats, right, scale)
    else:
        parallel_for(_row_losses, len(scores), scores, b, targets, nats, right,
                     np.empty(0, np.float32) if scale is None else scale)


@compiled
def _row_losses(scores, b, targets, nats, right, scale, start, stop):
    for i in range(start, stop):
        row = scores[i]
        target = row[targets[i]] + b[targets[i]]
        top, total = softmax_row(row, b, row)
        nats[i] = np.float32(math.log(total)) + top - target
        right[i] = target >= top
        if len(scale):
            gradient_row(row, total, targets[i], scale[i])


def _row_losses_gpu(scores, b, targets, nats, right, scale):
    xp = cuda.cupy
    scores += b
    top = scores.max(axis=1)
    target = xp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
    scores -= top[:, None]
    xp.exp(scores, out=scores)
    total = scores.sum(axis=1)
    nats[...] = xp.log(total) + top - target
    right[...] = target >= top
    if scale is not None:
        _gradients(scores, total, targets, scale)


def _gradients(scores, totals, targets, scale):
    if isinstance(scores, np.ndarray):
        parallel_for(_gradient_rows, len(scores), scores, totals, targets, scale)
    else:
        words = cuda.cupy.arange(scores.shape[1], dtype=targets.dtype)
        gradient_kernel()(totals[:, None], targets[:, None], words, scale[:, None], scores)


@compiled
def _gradient_rows(scores, totals, targets, scale, start, stop):
    for i in range(start, stop):
        gradient_row(scores[i], totals[i], targets[i], scale[i])
