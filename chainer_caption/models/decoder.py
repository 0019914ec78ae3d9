"""Decoders: a trained model as it runs for searches, sampling, rollouts and ensembles, one word at a time.

A decoder works on arrays, without a graph and without dropout. It has

- `device`: where it runs;
- `bias`: the biases of the words' scores, (V,) float32, which whoever reads the scores adds;
- `start(features) -> state`: reads the images. A state is whatever the decoder makes of n hypotheses;
- `step(state, parents, tokens) -> (state, scores)`: hypothesis i continues hypothesis parents[i] of the state before by
  the word tokens[i]. The scores of the next words, (n, V) float32, are without the biases, and may be overwritten.

`parents` is an array on the host, (n,) int; `tokens`, (n,) int, may be on the host or on the device: pass both through
`device.send` before they index arrays there.

A decoder with `records = True` has states with `gates`, `c` and `h`, from which `lstm_sequence` can continue (see
`functions.rollout`), and takes None for `parents` where each hypothesis continues itself. On the CPU, wrap calls in
`functions.one_blas_thread`.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import chainer
import numpy as np

from chainer_caption.functions import Array, lstm_cell, lstm_step, matmul, prepack

if TYPE_CHECKING:
    from chainer_caption.models.show_and_tell import ShowAndTell


class LSTMState(NamedTuple):
    """The state of n hypotheses."""
    h: Array                        #: The LSTM's, (n, H) float32.
    c: Array                        #: The LSTM's, (n, H) float32.
    gates: Array | None = None      #: Its activated gates, (n, 4H) float32; None if not recorded, or nothing was read.
    images: Array | None = None     #: The part that the images have in the output, (n, H) float32; None if none.


class LSTMDecoder:
    """Show and Tell as a recurrence over arrays.

    The part of the gates that comes from a word is the same wherever the word stands. It is computed once for the whole
    vocabulary, so that a step needs only the recurrent product and the output layer.

    Args:
        model: The model, on the device where it is to run.
        record: Whether states keep the gates, for self-critical training. Such a decoder lives for one update, so on
            the CPU it computes the parts of those words only that occur.
    """

    def __init__(self, model: ShowAndTell, record: bool = False) -> None:
        self.device, self.records, xp = model.device, record, model.xp
        self._lazy = record and xp is np
        self._image = model.image_vec.W.array, model.image_vec.b.array
        self._words, W_x, self._b = model.word_vec.W.array, model.lstm.upward.W.array.T, model.lstm.upward.b.array
        self._W_h, self._W_out = (self._factor(link.W.array.T) for link in (model.lstm.lateral, model.out_word))
        self.bias = model.out_word.b.array
        with chainer.using_device(self.device):
            if self._lazy:
                W_x, self._known = self._factor(W_x), np.zeros(len(self._words), bool)
                self._word_gates = np.empty((len(self._words), len(self._b)), np.float32)
            else:
                self._word_gates = xp.dot(self._words, W_x)
        self._W_x = W_x

    def _factor(self, W: Array) -> Array:
        # BLAS lays a transposed factor out again for each product, which takes longer than a product with few rows.
        return prepack(np.ascontiguousarray(W) if self._lazy else W)

    def start(self, features: Array) -> LSTMState:
        """Reads the images, (n, D) float32 on the device."""
        xp, (W, b) = self.device.xp, self._image
        gates = matmul(matmul(features, W.T) + b, self._W_x)
        h, c = (xp.empty((len(features), self._W_h.shape[0]), np.float32) for _ in range(2))
        lstm_cell(gates, xp.zeros_like(gates), self._b, xp.zeros_like(c), c, h)
        return LSTMState(h, c, gates if self.records else None)

    def step(self, state: LSTMState, parents: np.ndarray | None, tokens: Array) -> tuple[LSTMState, Array]:
        """Reads one word in each hypothesis; see the module."""
        xp = self.device.xp
        if xp is np:
            rows = parents = np.arange(len(tokens)) if parents is None else parents
            self._prepare(tokens)
            # Hypotheses with the same parent share its recurrent product.
            distinct, rows = np.unique(parents, return_inverse=True)
            recurrent = matmul(state.h[distinct], self._W_h)
        else:
            if parents is None:
                parents = xp.arange(len(tokens), dtype=np.int32)
            elif isinstance(tokens, np.ndarray):        # both in one upload
                parents, tokens = self.device.send(np.array([parents, tokens], np.int32))
            else:
                parents = self.device.send(parents.astype(np.int32))
            rows, recurrent = parents, matmul(state.h, self._W_h)
        gates = xp.empty((len(tokens), len(self._b)), np.float32) if self.records else None
        h, c = lstm_step(self._word_gates, tokens, recurrent, rows, self._b, state.c, parents, gates)
        images = None if state.images is None else state.images[parents]
        return LSTMState(h, c, gates, images), matmul(self.output(h, images), self._W_out)

    def output(self, h: Array, images: Array | None) -> Array:
        """The inputs of the output layer, (n, H): the LSTM's outputs."""
        return h

    def _prepare(self, tokens: np.ndarray) -> None:
        # Compiled loops do not check bounds.
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < len(self._words):
            raise IndexError(f'word ids from {tokens.min()} to {tokens.max()}, but the model has {len(self._words)}')
        new = np.unique(tokens[~self._known[tokens]]) if self._lazy else ()
        if len(new):
            self._known[new] = True
            self._word_gates[new] = matmul(self._words[new], self._W_x)
