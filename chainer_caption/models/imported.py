"""Captioners that other programs have trained, with their LSTM cells. They caption but cannot be trained here."""
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chainer
import chainer.links as L
import numpy as np

from chainer_caption.data.vocabulary import BOS, SPECIAL, UNK
from chainer_caption.errors import InputError
from chainer_caption.functions import Array, matmul, prepack
from chainer_caption.models.architecture import Architecture, register_architecture


class Cell(typing.NamedTuple):
    """The differences between LSTM cells."""
    candidates: int         #: number of candidates computed for each unit
    candidate: Callable     #: of these, (n, candidates * H), what enters the cell: (n, H)
    output: Callable        #: of the cell, what the output gate is multiplied with


def _tanh(x: Array) -> Array:
    return chainer.backend.get_array_module(x).tanh(x)


def _itself(x: Array) -> Array:
    return x


def _greater(x: Array) -> Array:
    half = x.shape[1] // 2
    return chainer.backend.get_array_module(x).maximum(x[:, :half], x[:, half:])


#: The cells by the names that `config.json` has for them: Chainer's; one whose output is not squashed (Sutskever et al.
#: 2014); one that takes the greater of two candidates as it is (maxout, Rennie et al. 2017).
CELLS = {'lstm': Cell(1, _tanh, _tanh), 'lstm_linear_output': Cell(1, _tanh, _itself),
         'lstm_maxout': Cell(2, _greater, _tanh)}

_MAY_BE_UNSAID = SPECIAL[BOS], SPECIAL[UNK]


@register_architecture('imported')
class Imported(Architecture):
    """Show and Tell as other programs have it: the embedded image is the LSTM's first input, `<S>` its second.

    Its LSTM has the rows of each gate together, `gate * H + unit`, gates i, f, o, then the candidates.

    Args: as for `Architecture` (`dropout` is recorded only), and
        embedding: E, the width of the embeddings.
        cell: One of `CELLS`.
        unsaid: The special words that it has no score for.
    """
    sizes = 'embedding',
    trainable = False
    cell: str

    def __init__(self, feature_size: int, vocabulary_size: int, hidden: int, embedding: int, cell: str,
                 unsaid: Sequence[str] = (), dropout: float = 0.0, initialW: Any = None) -> None:
        super().__init__()
        rows = (3 + CELLS[cell].candidates) * hidden
        with self.init_scope():
            self.word_vec = L.EmbedID(vocabulary_size, embedding, initialW)
            self.image_vec = L.Linear(feature_size, embedding, initialW=initialW)
            self.upward = L.Linear(embedding, rows, initialW=initialW)
            self.lateral = L.Linear(hidden, rows, nobias=True, initialW=initialW)
            self.out_word = L.Linear(hidden, vocabulary_size, initialW=initialW)

    @classmethod
    def read_configuration(cls, config: Mapping[str, Any], path: object) -> dict[str, Any]:
        found = super().read_configuration(config, path)
        found['cell'], found['unsaid'] = cell, unsaid = config.get('cell'), config.get('unsaid')
        if not isinstance(cell, str) or cell not in CELLS:
            raise InputError(f'{path}: "cell" should be one of {", ".join(CELLS)}, not {cell!r}')
        if not isinstance(unsaid, list) or any(word not in _MAY_BE_UNSAID for word in unsaid):
            raise InputError(f'{path}: "unsaid" should be a list of {" or ".join(_MAY_BE_UNSAID)}, not {unsaid!r}')
        return found

    def decoder(self) -> 'ImportedDecoder':
        return ImportedDecoder(self)


class ImportedDecoder:
    """An `Imported`, on its device, as a decoder; see `models.decoder`. Its state is in double precision: in a cell
    without a bound, a rounding error can grow from word to word."""

    def __init__(self, model: Imported) -> None:
        self.device, self._cell = model.device, CELLS[model.cell]
        self._W_out = prepack(model.out_word.W.array.T)
        with chainer.using_device(self.device):
            # The biases of words without a score are -inf.
            self.bias = model.out_word.b.array.copy()
            for word in model.unsaid:
                self.bias[SPECIAL.index(word)] = -np.inf
            self._image, self._upward = ([link.W.array.astype(np.float64), link.b.array.astype(np.float64)]
                                         for link in (model.image_vec, model.upward))
            self._W_h = model.lateral.W.array.astype(np.float64)
            self._word_gates = _affine(model.word_vec.W.array.astype(np.float64), *self._upward)

    def start(self, features: Array) -> tuple[Array, Array]:
        gates = _affine(_affine(features.astype(np.float64), *self._image), *self._upward)
        return self._advance(gates, self.device.xp.zeros((len(features), self._W_h.shape[1])))

    def step(self, state: tuple[Array, Array], parents: np.ndarray, tokens: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = state
        parents, tokens = self.device.send((parents, tokens))
        h, c = self._advance(self._word_gates[tokens] + matmul(h, self._W_h.T)[parents], c[parents])
        return (h, c), matmul(h.astype(np.float32), self._W_out)

    def _advance(self, gates: Array, c: Array) -> tuple[Array, Array]:
        units = c.shape[1]
        # The logistic function, without exponentials that overflow.
        i, f, o = (0.5 + 0.5 * _tanh(0.5 * gates[:, gate * units:(gate + 1) * units]) for gate in range(3))
        c = i * self._cell.candidate(gates[:, 3 * units:]) + f * c
        return o * self._cell.output(c), c


def _affine(x: Array, W: Array, b: Array) -> Array:
    return matmul(x, W.T) + b
