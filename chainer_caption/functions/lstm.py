"""An LSTM over a whole packed minibatch as one Chainer function.

The input projections of all steps are one matrix product, each step costs one product and one compiled pass, and the
gradients of both weight matrices are one product each over all steps (Appleyard et al., "Optimizing performance of
recurrent neural networks on GPUs", 2016)."""
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence

import chainer
import numpy as np

from chainer_caption.functions.buffers import acquire, column_sums, release
from chainer_caption.functions.compiled import Array
from chainer_caption.functions.first_order import first_order
from chainer_caption.functions.lstm_cell import lstm_cell, lstm_cell_backward
from chainer_caption.functions.matmul import by_captions, matmul, one_blas_thread, prepack


def lstm_sequence(x: Array, W_x: Array, b: Array, W_h: Array, batch_sizes: Sequence[int],
                  computed: tuple[Array, Array, Array] | None = None) -> chainer.Variable:
    """Runs an LSTM from a zero state over packed sequences.

    The equations and the layout of the weights are those of `chainer.functions.lstm` (Hochreiter and Schmidhuber 1997,
    with Gers et al.'s forget gate): row 4 * unit + gate, gates a (candidate), i, f, o::

        c[t] = tanh(a) * sigmoid(i) + c[t - 1] * sigmoid(f),    h[t] = tanh(c[t]) * sigmoid(o)

    Args:
        x: Inputs of all steps, packed: (N, I) float32, N = sum(batch_sizes). Or those of one step, (batch_sizes[0], I),
            which every step reads: then they are multiplied once.
        W_x, b, W_h: Input weights (4H, I), biases (4H,) and recurrent weights (4H, H), float32: `lstm/upward/W`,
            `lstm/upward/b`, `lstm/lateral/W`.
        batch_sizes: Number of rows of each step, on the host; never increasing, each at least 1.
        computed: The activated gates (N, 4H), c (N, H) and h (N, H) of these inputs, where sampling has computed them
            already; then only the backward pass remains.

    Returns: h of all steps, packed, (N, H) float32.
    """
    return _LSTMSequence(batch_sizes, computed).apply((x, W_x, b, W_h))[0]


class _LSTMSequence(chainer.FunctionNode):
    def __init__(self, batch_sizes: Sequence[int], computed: tuple[Array, Array, Array] | None) -> None:
        self.computed, self.batch_sizes = computed, list(batch_sizes)
        self.steps = list(itertools.pairwise(np.cumsum([0, *batch_sizes]).tolist()))    # (start, stop): rows of a step

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        self.retain_inputs((0, 1, 3))
        if self.computed is not None:
            return self._restore(inputs[0]),
        x, W_x, b, W_h = inputs
        xp = chainer.backend.get_array_module(x)
        units, first, rows = W_h.shape[1], self.steps[0][1], self.steps[-1][1]
        gates = acquire(xp, (rows, len(b)))
        h, c = (xp.empty((rows, units), x.dtype) for _ in range(2))
        # The state before each row of the second and later steps; the first step starts from zero.
        h_before, c_before = (xp.empty((rows - first, units), x.dtype) for _ in range(2))
        recurrent = xp.zeros((first, len(b)), x.dtype)
        zero = xp.zeros((first, units), x.dtype)
        with one_blas_thread():
            matmul(x, W_x.T, out=gates[:len(x)])
            recurring = prepack(W_h.T)
            for start, stop in self.steps[1:] if len(x) < rows else ():
                gates[start:stop] = gates[:stop - start]

            def run(low: int, high: int, multiply: Callable) -> None:
                done = 0                                # first row of the previous step
                for rows, before, captions in self._rows_of(low, high):
                    if before is not None:
                        previous = slice(done, done + rows.stop - rows.start)
                        h_before[before], c_before[before] = h[previous], c[previous]
                        multiply(h_before[before], recurring, out=recurrent[captions])
                    lstm_cell(gates[rows], recurrent[captions], b,
                              zero[captions] if before is None else c_before[before], c[rows], h[rows])
                    done = rows.start

            by_captions(run, self.batch_sizes, recurring)
        if chainer.config.enable_backprop:
            self.gates, self.c, self.h_before, self.c_before = gates, c, h_before, c_before
            weakref.finalize(self, release, gates)         # with the graph, whether backward has run or not
        else:
            release(gates)
        return h,

    def _restore(self, x: Array) -> Array:
        assert self.computed is not None
        self.gates, self.c, h = self.computed
        previous = chainer.backend.get_array_module(x).asarray(np.concatenate(
            [np.arange(start, start + stop - at) for (start, _), (at, stop) in itertools.pairwise(self.steps)]
            or [np.arange(0)]))
        self.h_before, self.c_before = h[previous], self.c[previous]
        return h

    @first_order
    def backward(self, indexes: tuple[int, ...], gh: Array) -> tuple[Array | None, ...]:
        x, W_x, W_h = (v.array for v in self.get_retained_inputs())
        xp = chainer.backend.get_array_module(x)
        first, ggates = self.steps[0][1], acquire(xp, self.gates.shape)
        # Gradients that a step passes to the previous one; zero for captions that have no later step.
        gh_carried = xp.zeros((first, W_h.shape[1]), x.dtype)
        gc, zero = xp.zeros_like(gh_carried), xp.zeros_like(gh_carried)
        with one_blas_thread():
            recurring = prepack(W_h)

            def run(low: int, high: int, multiply: Callable) -> None:
                for rows, before, captions in reversed(list(self._rows_of(low, high))):
                    lstm_cell_backward(self.gates[rows], self.c[rows],
                                       zero[captions] if before is None else self.c_before[before],
                                       gh[rows], gh_carried[captions], gc[captions], ggates[rows])
                    if before is not None:
                        multiply(ggates[rows], recurring, out=gh_carried[captions])

            by_captions(run, self.batch_sizes, recurring)
            gb, gW_h = column_sums(ggates), matmul(ggates[first:].T, self.h_before)
            for start, stop in self.steps[1:] if len(x) < len(ggates) else ():
                ggates[:stop - start] += ggates[start:stop]
            gread = ggates[:len(x)]
            gradients = matmul(gread, W_x) if 0 in indexes else None, matmul(gread.T, x), gb, gW_h
        release(ggates)
        return gradients

    def _rows_of(self, low: int, high: int) -> Iterator[tuple[slice, slice | None, slice]]:
        """For each step, of the captions from `low` to `high`: their rows, the rows of their previous states (None
        for the first step), and the slice of the captions that have this step."""
        first = self.steps[0][1]
        for start, stop in self.steps:
            count = min(high, stop - start) - low
            if count <= 0:
                return
            rows = slice(start + low, start + low + count)
            yield rows, slice(rows.start - first, rows.stop - first) if start else None, slice(low, low + count)
