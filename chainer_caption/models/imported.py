"""Captioners that other programs have trained, with the cell that theirs has. They caption; they are not trained on."""
import typing
from collections.abc import Callable

import chainer
import chainer.links as L
import numpy as np

from chainer_caption.data.vocabulary import BOS, SPECIAL, UNK
from chainer_caption.errors import InputError
from chainer_caption.functions.matmul import matmul, prepack
from chainer_caption.models.architecture import Architecture


class Cell(typing.NamedTuple):
    """What tells an LSTM from others.

    Attributes:
        candidates (int): How many candidates it computes for each unit.
        candidate (callable): Of these, (n, candidates * H), what enters the cell: (n, H).
        output (callable): What the output gate is multiplied with, of the cell.
    """
    candidates: int
    candidate: Callable
    output: Callable


def _tanh(x):
    return chainer.backend.get_array_module(x).tanh(x)


def _itself(x):
    return x


def _greater(x):
    half = x.shape[1] // 2
    return chainer.backend.get_array_module(x).maximum(x[:, :half], x[:, half:])


#: The cells by the names that `config.json` has for them: Chainer's; one whose output is not squashed (Sutskever et al.
#: 2014); one that takes the greater of two candidates as it is (maxout, Rennie et al. 2017).
CELLS = {'lstm': Cell(1, _tanh, _tanh), 'lstm_linear_output': Cell(1, _tanh, _itself),
         'lstm_maxout': Cell(2, _greater, _tanh)}


_MAY_BE_UNSAID = SPECIAL[BOS], SPECIAL[UNK]


class Imported(Architecture):
    """Show and Tell as other programs have it: the embedded image is the LSTM's first input, `<S>` its second.

    Its LSTM has the rows of each gate together, `gate * H + unit`, gates i, f, o, then the candidates.

    Args:
        feature_size (int): D, the length of an image's feature vector.
        vocabulary_size (int): V, the number of words, special ones included.
        hidden (int): H, the width of the LSTM.
        embedding (int): E, the width of the embeddings.
        cell (str): One of `CELLS`.
        unsaid (sequence of str): The special words that it has no score for.
        dropout (float): For the record; nothing is dropped where nothing is trained.
        initialW (initializer or None): Of all weight matrices, as for Chainer's links.
    """

    architecture = 'imported'
    sizes = *Architecture.sizes, 'embedding'
    trainable = False

    def __init__(self, feature_size, vocabulary_size, hidden, embedding, cell, unsaid=(), dropout=0.0, initialW=None):
        super().__init__(dropout)
        self.cell, self.unsaid = cell, tuple(unsaid)
        rows = _rows(cell, hidden)
        with self.init_scope():
            self.word_vec = L.EmbedID(vocabulary_size, embedding, initialW)
            self.image_vec = L.Linear(feature_size, embedding, initialW=initialW)
            self.upward = L.Linear(embedding, rows, initialW=initialW)
            self.lateral = L.Linear(hidden, rows, nobias=True, initialW=initialW)
            self.out_word = L.Linear(hidden, vocabulary_size, initialW=initialW)

    @staticmethod
    def weight_shapes(feature_size, vocabulary_size, hidden, embedding, cell):
        rows = _rows(cell, hidden)
        return {'word_vec/W': (vocabulary_size, embedding), 'image_vec/W': (embedding, feature_size),
                'image_vec/b': (embedding,), 'upward/W': (rows, embedding), 'upward/b': (rows,),
                'lateral/W': (rows, hidden), 'out_word/W': (vocabulary_size, hidden), 'out_word/b': (vocabulary_size,)}

    @classmethod
    def shaping(cls, configuration):
        return {**super().shaping(configuration), 'cell': configuration['cell']}

    @property
    def configuration(self):
        return {**super().configuration, 'cell': self.cell, 'unsaid': list(self.unsaid)}

    @classmethod
    def read_configuration(cls, config, path):
        found = super().read_configuration(config, path)
        found['cell'], found['unsaid'] = cell, unsaid = config.get('cell'), config.get('unsaid')
        if not isinstance(cell, str) or cell not in CELLS:
            raise InputError(f'{path}: "cell" should be one of {", ".join(CELLS)}, not {cell!r}')
        if not isinstance(unsaid, list) or any(word not in _MAY_BE_UNSAID for word in unsaid):
            raise InputError(f'{path}: "unsaid" should be a list of {" or ".join(_MAY_BE_UNSAID)}, not {unsaid!r}')
        return found

    @property
    def hidden(self):
        return self.out_word.W.shape[1]

    @property
    def embedding(self):
        return self.image_vec.W.shape[0]

    def stepper(self):
        return ImportedStepper(self)


def _rows(cell, hidden):
    return (3 + CELLS[cell].candidates) * hidden


class ImportedStepper:
    """An `Imported` one word at a time, for searching; used as `models.stepper.Stepper` is.

    Its state is in double precision: in a cell without a bound, a rounding can grow from word to word.

    Args:
        model (Imported): The model, on the device where the search is to run.
    """

    def __init__(self, model):
        self.device = model.device
        self._cell = CELLS[model.cell]
        self._W_out = prepack(model.out_word.W.array.T)
        with chainer.using_device(self.device):
            #: The biases of the words' scores, (V,); those of what is never said are -inf.
            self.bias = model.out_word.b.array.copy()
            for word in model.unsaid:
                self.bias[SPECIAL.index(word)] = -np.inf
            self._image, self._upward = ([link.W.array.astype(np.float64), link.b.array.astype(np.float64)]
                                         for link in (model.image_vec, model.upward))
            self._W_h = model.lateral.W.array.astype(np.float64)
            self._word_gates = _affine(model.word_vec.W.array.astype(np.float64), *self._upward)

    def start(self, features):
        """Reads the images; see `Stepper.start`."""
        gates = _affine(_affine(features.astype(np.float64), *self._image), *self._upward)
        return self._advance(gates, self.device.xp.zeros((len(features), self._W_h.shape[1])))

    def step(self, state, parents, words):
        """Reads one word in each of some hypotheses; see `Stepper.step`."""
        h, c = state
        parents, words = self.device.send(np.array([parents, words], np.int32))
        h, c = self._advance(self._word_gates[words] + matmul(h, self._W_h.T)[parents], c[parents])
        return (h, c), matmul(h.astype(np.float32), self._W_out)

    def _advance(self, gates, c):
        units = c.shape[1]
        # The logistic function, without exponentials that overflow.
        i, f, o = (0.5 + 0.5 * _tanh(0.5 * gates[:, gate * units:(gate + 1) * units]) for gate in range(3))
        c = i * self._cell.candidate(gates[:, 3 * units:]) + f * c
        return o * self._cell.output(c), c


def _affine(x, W, b):
    return matmul(x, W.T) + b
