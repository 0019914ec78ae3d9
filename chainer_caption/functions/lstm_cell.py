"""One step of an LSTM and its gradient: compiled loops for NumPy, elementwise kernels for CuPy."""

import functools

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import Array, compiled, inlined, parallel_for, sigmoid, tanh


def lstm_cell(gates: Array, recurrent: Array, b: Array, c0: Array, c: Array, h: Array) -> None:
    """Computes one step in place, all float32: `gates`, (n, 4H), the input's part, becomes the activated gates; `c` and
    `h`, (n, H), are written. `recurrent`, (n, 4H), is the part of the previous h, `b`, (4H,), the biases, and `c0`,
    (n, H), the previous c."""
    if isinstance(gates, cuda.ndarray):
        g, r, bias = gates.reshape(*c.shape, 4), recurrent.reshape(*c.shape, 4), b.reshape(-1, 4)
        _cell_kernel()(*(r[..., k] for k in range(4)), *(bias[:, k] for k in range(4)), c0,
                       *(g[..., k] for k in range(4)), c, h)
    else:
        _cell(gates, recurrent, b, c0, c, h)


def lstm_cell_backward(gates: Array, c: Array, c0: Array, gh: Array, gh_carried: Array, gc: Array,
                       ggates: Array) -> None:
    """The gradient of a step, float32: `ggates`, (n, 4H), becomes that of the gates before activation, and `gc`,
    (n, H), that of c from the following step, becomes that of the previous c. `gates`, `c` and `c0` are as `lstm_cell`
    has left them; `gh` and `gh_carried`, (n, H), are the gradients of h from the outputs and the following step."""
    if isinstance(gates, cuda.ndarray):
        g, gg = gates.reshape(*c.shape, 4), ggates.reshape(*c.shape, 4)
        _cell_backward_kernel()(*(g[..., k] for k in range(4)), c, c0, gh, gh_carried, gc,
                                *(gg[..., k] for k in range(4)))
    else:
        _cell_backward(gates, c, c0, gh, gh_carried, gc, ggates)


def lstm_step(word_gates: Array, tokens: Array, recurrent: Array, rows: Array, b: Array, c0: Array, parents: Array,
              gates: Array | None = None) -> tuple[Array, Array]:
    """One step of a decoder: hypothesis i reads tokens[i] after the state of its parent.

    Args:
        word_gates: The part of the gates of each word of the vocabulary, (V, 4H) float32; `tokens` are (n,) int.
        recurrent, rows: The parts of previous states, (m, 4H) float32, and which each hypothesis has, (n,) int.
        b: Biases, (4H,) float32.
        c0, parents: The previous c, (k, H) float32, and which each hypothesis has, (n,) int.
        gates: Output: the activated gates, (n, 4H) float32; None to drop them.

    Returns: `(h, c)`, each (n, H) float32.
    """
    xp = cuda.get_array_module(c0)
    h, c = (xp.empty((len(tokens), c0.shape[1]), np.float32) for _ in range(2))
    if gates is not None:
        gates[...] = word_gates[tokens]
        lstm_cell(gates, recurrent[rows], b, c0[parents], c, h)
    elif xp is np:
        parallel_for(_step, len(tokens), word_gates, tokens, recurrent, rows, b, c0, parents, c, h)
    else:
        _step_kernel()(word_gates, tokens[:, None], recurrent, rows[:, None], b, c0, parents[:, None], h.shape[1], c, h)
    return h, c


@inlined
def cell(a, i, f, o, before):
    """One unit of a step, for compiled loops: from its gates and previous c, the activated gates, c and h."""
    ga, gi, gf, go = tanh(a), sigmoid(i), sigmoid(f), sigmoid(o)
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
            gates[i, k], gates[i, k + 1], gates[i, k + 2], gates[i, k + 3] = ga, gi, gf, go
            c[i, u], h[i, u] = c1, h1


@compiled
def _step(word_gates, tokens, recurrent, rows, b, c0, parents, c, h, start, stop):
    units = c.shape[1]
    for i in range(start, stop):
        read, carried, before = word_gates[tokens[i]], recurrent[rows[i]], c0[parents[i]]
        for u in range(units):
            k = 4 * u
            _, _, _, _, c1, h1 = cell(read[k] + carried[k] + b[k], read[k + 1] + carried[k + 1] + b[k + 1],
                                      read[k + 2] + carried[k + 2] + b[k + 2], read[k + 3] + carried[k + 3] + b[k + 3],
                                      before[u])
            c[i, u], h[i, u] = c1, h1


@compiled
def _cell_backward(gates, c, c0, gh, gh_carried, gc, ggates):
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


# For the elementwise kernels: the gates are activated in place; c and h are written.
_LSTM_CELL_CUDA = '''
template <typename Real>
__device__ __forceinline__ void lstm_cell(Real& ga, Real& gi, Real& gf, Real& go, Real c0, Real& c, Real& h) {
    ga = tanh(ga); gi = (Real)1 / ((Real)1 + exp(-gi));
    gf = (Real)1 / ((Real)1 + exp(-gf)); go = (Real)1 / ((Real)1 + exp(-go));
    c = ga * gi + c0 * gf; h = tanh(c) * go;
}
'''

_cell_kernel = functools.partial(
    cuda.elementwise, 'T ra, T ri, T rf, T ro, T ba, T bi, T bf, T bo, T c0', 'T ga, T gi, T gf, T go, T c, T h', '''
    ga += ra + ba; gi += ri + bi; gf += rf + bf; go += ro + bo;
    lstm_cell(ga, gi, gf, go, c0, c, h)''', 'caption_lstm_cell', preamble=_LSTM_CELL_CUDA)

_step_kernel = functools.partial(
    cuda.elementwise,
    'raw T word_gates, int32 word, raw T recurrent, int32 row, raw T b, raw T c0, int32 parent, int32 units',
    'T c, T h', '''
    int unit = i % units;
    ptrdiff_t read = ((ptrdiff_t)word * units + unit) * 4, carried = ((ptrdiff_t)row * units + unit) * 4;
    T gates[4];
    for (int k = 0; k < 4; k++) gates[k] = word_gates[read + k] + recurrent[carried + k] + b[unit * 4 + k];
    lstm_cell(gates[0], gates[1], gates[2], gates[3], c0[(ptrdiff_t)parent * units + unit], c, h)''',
    'caption_step', preamble=_LSTM_CELL_CUDA)

_cell_backward_kernel = functools.partial(
    cuda.elementwise, 'T ga, T gi, T gf, T go, T c, T c0, T gh, T gh_carried', 'T gc, T gga, T ggi, T ggf, T ggo', '''
    T tc = tanh(c), dh = gh + gh_carried, dc = gc + dh * go * ((T)1 - tc * tc);
    gga = dc * gi * ((T)1 - ga * ga);
    ggi = dc * ga * gi * ((T)1 - gi);
    ggf = dc * c0 * gf * ((T)1 - gf);
    ggo = dh * tc * go * ((T)1 - go);
    gc = dc * gf''', 'caption_lstm_cell_backward')
