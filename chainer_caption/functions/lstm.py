"""An LSTM over a whole packed minibatch as one Chainer function.

Chainer's `L.LSTM` makes a dozen function nodes a step. Here the input projections of all steps are one matrix product,
each step costs one product and one compiled pass, and the gradients of both weight matrices are one product each over
all steps (Appleyard et al., "Optimizing performance of recurrent neural networks on GPUs", 2016).
"""
import functools
import itertools
import weakref

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.bfloat16 import PackedMatrix, bfloat16_matmul, serial
from chainer_caption.functions.buffers import acquire, column_sums, release
from chainer_caption.functions.compiled import compiled, inlined, parallel_for, sigmoid, tanh
from chainer_caption.functions.cpu_count import thread_count
from chainer_caption.functions.matmul import matmul, one_blas_thread, prepack


def lstm_sequence(x, W_x, b, W_h, batch_sizes, computed=None):
    """Runs an LSTM from a zero state over packed sequences.

    The equations and the layout of the weights are those of `chainer.functions.lstm` (Hochreiter and Schmidhuber 1997,
    with Gers et al.'s forget gate): row 4 * unit + gate, gates a (candidate), i, f, o::

        c[t] = tanh(a) * sigmoid(i) + c[t - 1] * sigmoid(f),    h[t] = tanh(c[t]) * sigmoid(o)

    Args:
        x (chainer.Variable or array): The inputs of all steps, packed: (N, I) float32, N = sum(batch_sizes). Or those
            of one step, (batch_sizes[0], I), which every step reads again: then they are multiplied once.
        W_x (chainer.Variable or array): Input weights (`lstm/upward/W`), (4H, I) float32.
        b (chainer.Variable or array): Biases (`lstm/upward/b`), (4H,) float32.
        W_h (chainer.Variable or array): Recurrent weights (`lstm/lateral/W`), (4H, H) float32.
        batch_sizes (sequence of int): The rows of each step, on the host; never increasing, each at least 1.
        computed (tuple of array or None): The activated gates (N, 4H), c and h (N, H) of these very inputs, where they
            have been computed before (`functions.sampling`); only the gradients are left to be made then.

    Returns:
        chainer.Variable: h of all steps, packed: (N, H) float32.
    """
    return _LSTMSequence(batch_sizes, computed).apply((x, W_x, b, W_h))[0]


class _LSTMSequence(chainer.FunctionNode):

    def __init__(self, batch_sizes, computed):
        self.computed = computed
        bounds = np.cumsum([0, *batch_sizes]).tolist()
        self.steps = list(itertools.pairwise(bounds))     # (start, stop) of each step's rows

    def forward(self, inputs):
        self.retain_inputs((0, 1, 3))
        if self.computed is not None:
            return self._remember(inputs[0]),
        x, W_x, b, W_h = inputs
        xp = chainer.backend.get_array_module(x)
        units, first, rows = W_h.shape[1], self.steps[0][1], self.steps[-1][1]
        gates = acquire(xp, (rows, len(b)))
        h = xp.empty((rows, units), x.dtype)
        c = xp.empty_like(h)
        # The state that each row starts from, packed like the rows of the steps after the first, which starts from 0.
        h_before = xp.empty((rows - first, units), x.dtype)
        c_before = xp.empty_like(h_before)
        recurrent = xp.zeros((first, len(b)), x.dtype)
        zero = xp.zeros((first, units), x.dtype)
        with one_blas_thread():
            matmul(x, W_x.T, out=gates[:len(x)])
            recurring = prepack(W_h.T)
            for start, stop in self.steps[1:] if len(x) < rows else ():
                gates[start:stop] = gates[:stop - start]

            def run(low, high, multiply):
                done = 0                                # where the rows of the step before begin
                for rows, before, captions in self._rows_of(low, high):
                    if before is not None:
                        going_on = slice(done, done + rows.stop - rows.start)
                        h_before[before], c_before[before] = h[going_on], c[going_on]
                        multiply(h_before[before], recurring, out=recurrent[captions])
                    lstm_cell(gates[rows], recurrent[captions], b,
                              zero[captions] if before is None else c_before[before], c[rows], h[rows])
                    done = rows.start

            self._in_shares(run, recurring)
        if chainer.config.enable_backprop:
            self.gates, self.c, self.h_before, self.c_before = gates, c, h_before, c_before
            weakref.finalize(self, release, gates)         # with the graph, whether it is gone backward through or not
        else:
            release(gates)
        return h,

    def _remember(self, x):
        self.gates, self.c, h = self.computed
        going_on = chainer.backend.get_array_module(x).asarray(np.concatenate(
            [np.arange(start, start + stop - at) for (start, _), (at, stop) in itertools.pairwise(self.steps)]))
        self.h_before, self.c_before = h[going_on], self.c[going_on]
        return h

    def backward(self, indexes, grad_outputs):
        x, W_x, W_h = (v.array for v in self.get_retained_inputs())
        gh = grad_outputs[0].array
        xp = chainer.backend.get_array_module(x)
        first = self.steps[0][1]
        ggates = acquire(xp, self.gates.shape)
        # What a step hands to the one before it. A caption that ends before the others has handed nothing: zero.
        gh_carried = xp.zeros((first, W_h.shape[1]), x.dtype)
        gc, zero = xp.zeros_like(gh_carried), xp.zeros_like(gh_carried)
        with one_blas_thread():
            recurring = prepack(W_h)

            def run(low, high, multiply):
                for rows, before, captions in reversed(list(self._rows_of(low, high))):
                    _cell_backward(self.gates[rows], self.c[rows], zero[captions] if before is None else
                                   self.c_before[before], gh[rows], gh_carried[captions], gc[captions], ggates[rows])
                    if before is not None:
                        multiply(ggates[rows], recurring, out=gh_carried[captions])

            self._in_shares(run, recurring)
            gb, gW_h = column_sums(ggates), matmul(ggates[first:].T, self.h_before)
            for start, stop in self.steps[1:] if len(x) < len(ggates) else ():
                ggates[:stop - start] += ggates[start:stop]
            gread = ggates[:len(x)]
            gradients = matmul(gread, W_x) if 0 in indexes else None, matmul(gread.T, x), gb, gW_h
        release(ggates)
        return tuple(chainer.as_variable(gradients[i]) for i in indexes)

    def _rows_of(self, low, high):
        """Of the captions from `low` to `high`, for each step: where its rows lie, where the states lie that they start
        from (None for the first), and which captions go on so far."""
        first = self.steps[0][1]
        for start, stop in self.steps:
            count = min(high, stop - start) - low
            if count <= 0:
                return
            rows = slice(start + low, start + low + count)
            yield rows, slice(rows.start - first, rows.stop - first) if start else None, slice(low, low + count)

    def _in_shares(self, run, recurring):
        """Calls `run(low, high, multiply)` so that it has seen all captions.

        Threads that find the recurrent weights packed take captions of their own through all steps and wait for each
        other once. BLAS would pack the whole of the weights for each of them, at each step; it is given all captions,
        and the threads share each product.
        """
        first = self.steps[0][1]
        if not isinstance(recurring, PackedMatrix):
            run(0, first, matmul)
            return
        batch_sizes = np.array([stop - start for start, stop in self.steps])
        lengths = (batch_sizes[:, None] > np.arange(first)).sum(axis=0)
        threads = min(thread_count(), first)
        ends = np.searchsorted(np.cumsum(lengths), batch_sizes.sum() * np.arange(1, threads) / threads) + 1
        bounds = [0, *ends.tolist(), first]

        multiply = functools.partial(bfloat16_matmul, loop=serial)
        parallel_for(lambda start, stop: run(bounds[start], bounds[stop], multiply), threads)


def lstm_cell(gates, recurrent, b, c0, c, h):
    """One step, in place: `gates` becomes the activated gates; `c` and `h` are written. Rows are packed captions.

    Args:
        gates (array): The input's share of the gates, (n, 4H) float32; overwritten.
        recurrent (array): The share of the state before, (n, 4H) float32.
        b (array): Biases, (4H,) float32.
        c0 (array): The cell before, (n, H) float32.
        c (array): Out, (n, H) float32.
        h (array): Out, (n, H) float32.
    """
    if isinstance(gates, cuda.ndarray):
        g = gates.reshape(*c.shape, 4)
        r = recurrent.reshape(*c.shape, 4)
        bias = b.reshape(-1, 4)
        _cell_kernel()(r[..., 0], r[..., 1], r[..., 2], r[..., 3], bias[:, 0], bias[:, 1], bias[:, 2], bias[:, 3], c0,
                       g[..., 0], g[..., 1], g[..., 2], g[..., 3], c, h)
    else:
        _cell(gates, recurrent, b, c0, c, h)


def _cell_backward(gates, c, c0, gh, gh_carried, gc, ggates):
    if isinstance(gates, cuda.ndarray):
        g = gates.reshape(*c.shape, 4)
        gg = ggates.reshape(*c.shape, 4)
        _cell_backward_kernel()(g[..., 0], g[..., 1], g[..., 2], g[..., 3], c, c0, gh, gh_carried, gc,
                                gg[..., 0], gg[..., 1], gg[..., 2], gg[..., 3])
    else:
        _cell_backward_loop(gates, c, c0, gh, gh_carried, gc, ggates)


@inlined
def cell(a, i, f, o, before):
    """One unit of a step, for compiled loops: from its gates and its c before, the activated gates, c and h."""
    ga = tanh(a)
    gi = sigmoid(i)
    gf = sigmoid(f)
    go = sigmoid(o)
    c = ga * gi + before * gf
    return ga, gi, gf, go, c, tanh(c) * go


@compiled
def _cell(gates, recurrent, b, c0, c, h):
    rows, units = c.shape
    for i in range(rows):
        for u in range(units):
            k = 4 * u
            ga, gi, gf, go, c1, h1 = cell(gates[i, k] + recurrent[i, k] + b[k],
                                          gates[i, k + 1] + recurrent[i, k + 1] + b[k + 1],
                                          gates[i, k + 2] + recurrent[i, k + 2] + b[k + 2],
                                          gates[i, k + 3] + recurrent[i, k + 3] + b[k + 3], c0[i, u])
            gates[i, k] = ga
            gates[i, k + 1] = gi
            gates[i, k + 2] = gf
            gates[i, k + 3] = go
            c[i, u] = c1
            h[i, u] = h1


@compiled
def _cell_backward_loop(gates, c, c0, gh, gh_carried, gc, ggates):
    one = np.float32(1)
    rows, units = c.shape
    for i in range(rows):
        for u in range(units):
            k = 4 * u
            ga, gi, gf, go = gates[i, k], gates[i, k + 1], gates[i, k + 2], gates[i, k + 3]
            tc = tanh(c[i, u])
            dh = gh[i, u] + gh_carried[i, u]
            dc = gc[i, u] + dh * go * (one - tc * tc)
            ggates[i, k] = dc * gi * (one - ga * ga)
            ggates[i, k + 1] = dc * ga * gi * (one - gi)
            ggates[i, k + 2] = dc * c0[i, u] * gf * (one - gf)
            ggates[i, k + 3] = dh * tc * go * (one - go)
            gc[i, u] = dc * gf


# For the elementwise kernels: the gates are activated where they stand; c and h are written.
LSTM_CELL_CUDA = '''
template <typename Real>
__device__ __forceinline__ void lstm_cell(Real& ga, Real& gi, Real& gf, Real& go, Real c0, Real& c, Real& h) {
    ga = tanh(ga);
    gi = (Real)1 / ((Real)1 + exp(-gi));
    gf = (Real)1 / ((Real)1 + exp(-gf));
    go = (Real)1 / ((Real)1 + exp(-go));
    c = ga * gi + c0 * gf;
    h = tanh(c) * go;
}
'''


@cuda.memoize()
def _cell_kernel():
    return cuda.cupy.ElementwiseKernel(
        'T ra, T ri, T rf, T ro, T ba, T bi, T bf, T bo, T c0', 'T ga, T gi, T gf, T go, T c, T h',
        '''
        ga += ra + ba;
        gi += ri + bi;
        gf += rf + bf;
        go += ro + bo;
        lstm_cell(ga, gi, gf, go, c0, c, h)
        ''', 'caption_lstm_cell', preamble=LSTM_CELL_CUDA)


@cuda.memoize()
def _cell_backward_kernel():
    return cuda.cupy.ElementwiseKernel(
        'T ga, T gi, T gf, T go, T c, T c0, T gh, T gh_carried', 'T gc, T gga, T ggi, T ggf, T ggo',
        '''
        T tc = tanh(c);
        T dh = gh + gh_carried;
        T dc = gc + dh * go * ((T)1 - tc * tc);
        gga = dc * gi * ((T)1 - ga * ga);
        ggi = dc * ga * gi * ((T)1 - gi);
        ggf = dc * c0 * gf * ((T)1 - gf);
        ggo = dh * tc * go * ((T)1 - go);
        gc = dc * gf
        ''', 'caption_lstm_cell_backward')
