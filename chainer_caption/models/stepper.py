"""Show and Tell one word at a time, for searching: no graph, no links, and the work that repeats done once."""
import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import compiled, parallel_for
from chainer_caption.functions.lstm import LSTM_CELL_CUDA, cell, lstm_cell
from chainer_caption.functions.matmul import matmul, prepack


class Stepper:
    """A trained ShowAndTell as a recurrence over arrays.

    A word's share of the gates is the same wherever it stands, so all of them are computed once, one product for the
    whole vocabulary, and a step is left with the recurrent product and the output layer. Wrap a search on the CPU in
    `functions.matmul.one_blas_thread`.

    Args:
        model (ShowAndTell): The model, on the device where the search is to run.
    """

    def __init__(self, model):
        self.device = model.device
        self._image = model.image_vec.W.array, model.image_vec.b.array
        self._W_x, self._b = model.lstm.upward.W.array, model.lstm.upward.b.array
        self._W_h, self._W_out = (prepack(link.W.array.T) for link in (model.lstm.lateral, model.out_word))
        #: The biases of the words' scores, (V,); `step` leaves them to be added by whoever reads the scores next.
        self.bias = model.out_word.b.array
        with chainer.using_device(self.device):
            self._word_gates = model.xp.dot(model.word_vec.W.array, self._W_x.T)

    def start(self, features):
        """Reads the images.

        Args:
            features (array): (n, D) float32, on the device.

        Returns:
            tuple: The state `(h, c)`, each (n, H) float32.
        """
        xp = self.device.xp
        W, b = self._image
        gates = matmul(matmul(features, W.T) + b, self._W_x.T)
        c = xp.empty((len(features), self._W_h.shape[0]), np.float32)
        h = xp.empty_like(c)
        lstm_cell(gates, xp.zeros_like(gates), self._b, xp.zeros_like(c), c, h)
        return h, c

    def step(self, state, parents, words):
        """Reads one word in each of some hypotheses.

        Args:
            state (tuple): `(h, c)` of the hypotheses before, each (m, H) float32.
            parents (numpy.ndarray): Which of them each new hypothesis continues, (n,) int.
            words (numpy.ndarray): The word that it reads, (n,) int.

        Returns:
            tuple: `(state, scores)`: the state of the new hypotheses, and the scores of their next words, without
            the biases: (n, V) float32.
        """
        h, c = self._read(state, parents, words)
        return (h, c), matmul(h, self._W_out)

    def _read(self, state, parents, words):
        # The LSTM's h and c behind the words.
        h0, c0 = state
        xp = self.device.xp
        h = xp.empty((len(parents), h0.shape[1]), np.float32)
        c = xp.empty_like(h)
        if xp is np:
            # Hypotheses with the same parent share its recurrent product.
            distinct, places = np.unique(parents, return_inverse=True)
            recurrent = matmul(h0[distinct], self._W_h)
            parallel_for(_step, len(parents), self._word_gates, words, recurrent, places, self._b, c0, parents, c, h)
        else:
            # Nor is anything put in order before it: the kernel finds the rows.
            parents, words = self.device.send(np.array([parents, words], np.int32))[:, :, None]
            _step_kernel()(self._word_gates, words, matmul(h0, self._W_h), parents, self._b, c0, h.shape[1], c, h)
        return h, c


@compiled
def _step(word_gates, words, recurrent, places, b, c0, parents, c, h, start, stop):
    units = c.shape[1]
    for i in range(start, stop):
        read = word_gates[words[i]]
        carried = recurrent[places[i]]
        before = c0[parents[i]]
        for u in range(units):
            k = 4 * u
            _, _, _, _, c1, h1 = cell(read[k] + carried[k] + b[k], read[k + 1] + carried[k + 1] + b[k + 1],
                                      read[k + 2] + carried[k + 2] + b[k + 2], read[k + 3] + carried[k + 3] + b[k + 3],
                                      before[u])
            c[i, u] = c1
            h[i, u] = h1


@cuda.memoize()
def _step_kernel():
    return cuda.cupy.ElementwiseKernel(
        'raw T word_gates, int32 word, raw T recurrent, int32 parent, raw T b, raw T c0, int32 units', 'T c, T h',
        '''
        int unit = i % units;
        ptrdiff_t read = ((ptrdiff_t)word * units + unit) * 4, carried = ((ptrdiff_t)parent * units + unit) * 4;
        T gates[4];
        for (int k = 0; k < 4; k++) gates[k] = word_gates[read + k] + recurrent[carried + k] + b[unit * 4 + k];
        lstm_cell(gates[0], gates[1], gates[2], gates[3], c0[(ptrdiff_t)parent * units + unit], c, h)
        ''', 'caption_step', preamble=LSTM_CELL_CUDA)
