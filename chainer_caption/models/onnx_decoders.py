"""The decoders of this package's architectures in the operators of ONNX: of each its `start` and its `step`, with the
interface of `models.onnx_graph`."""
from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from chainer_caption.data.vocabulary import EOS, SPECIAL
from chainer_caption.models.encoder_decoder import EncoderDecoder
from chainer_caption.models.imported import Imported
from chainer_caption.models.merge import Merge
from chainer_caption.models.show_and_tell import ShowAndTell

_A, _I, _F, _O = range(4)       # the gates of Chainer's LSTM, in row 4 * unit + gate


def _linear(g: Any, x: str, link: Any) -> str:
    return g.add('Gemm', x, link.W.array, link.b.array, transB=1)


def _by_gate(array: Any, *gates: int) -> np.ndarray:
    """The rows of Chainer's LSTM with those of each gate together."""
    return np.concatenate([array.reshape(-1, 4, *array.shape[1:])[:, gate] for gate in gates])


def _lstm(model: Any, g: Any, x: str, h: str | None, c: str | None) -> list[str]:
    """Reads x: [h, c]. Without h and c nothing has been read."""
    W, b, order = model.lstm.upward.W.array, model.lstm.upward.b.array, (_A, _I, _F, _O)
    W = _by_gate(W, *order)
    if h is not None:
        x, W = g.add('Concat', x, h, axis=1), np.concatenate([W, _by_gate(model.lstm.lateral.W.array, *order)], axis=1)
    a, i, f, o = g.add('Split', g.add('Gemm', x, W, _by_gate(b, *order), transB=1), axis=1, outputs=4)
    read = g.add('Mul', g.add('Sigmoid', i), g.add('Tanh', a))
    c = read if c is None else g.add('Add', read, g.add('Mul', g.add('Sigmoid', f), c))
    return [g.add('Mul', g.add('Sigmoid', o), g.add('Tanh', c)), c]


def _start_show_and_tell(model: Any, g: Any, features: str) -> list[str]:
    return _lstm(model, g, _linear(g, features, model.image_vec), None, None)


def _step_show_and_tell(model: Any, g: Any, state: list[str], tokens: str) -> tuple[list[str], str]:
    h, c = _lstm(model, g, g.add('Gather', model.word_vec.W.array, tokens), *state)
    return [h, c], _linear(g, h, model.out_word)


def _start_merge(model: Any, g: Any, features: str) -> list[str]:
    images = _linear(g, g.add('Relu', _linear(g, features, model.image_vec)), model.joint)
    zeros = g.add('ConstantOfShape', g.add('Shape', images))
    return [zeros, zeros, images]


def _step_merge(model: Any, g: Any, state: list[str], tokens: str) -> tuple[list[str], str]:
    *state, images = state
    h, c = _lstm(model, g, g.add('Gather', model.word_vec.W.array, tokens), *state)
    joined = g.add('Relu', g.add('Gemm', h, model.joint.W.array, images, transB=1))
    return [h, c, images], _linear(g, joined, model.out_word)


def _start_encoder_decoder(model: Any, g: Any, features: str) -> list[str]:
    _, code = _read_repeatedly(model, g, model.encoder, _linear(g, features, model.image_vec), 'forward')
    halves = [_read_repeatedly(model, g, link, code, direction)[0]
              for link, direction in ((model.forwards, 'forward'), (model.backwards, 'reverse'))]
    outputs = g.add('Transpose', g.add('Concat', *halves, axis=2), perm=[1, 0, 2])          # (n, T, 2H)
    place = g.add('ConstantOfShape', g.add('Shape', features, end=1), value=numpy_helper.from_array(np.array([0])))
    return [outputs, place]


def _read_repeatedly(model: Any, g: Any, link: Any, x: str, direction: str) -> list[str]:
    """The outputs of an LSTM that reads the same T times, (T, n, H), and the last of them, (n, H)."""
    order = _I, _O, _F, _A                              # ONNX's
    W, R, b = (_by_gate(array, *order)[None]
               for array in (link.upward.W.array, link.lateral.W.array, link.upward.b.array))
    outputs, last = g.add('LSTM', g.add('Expand', x, np.array([model.max_positions, 1, 1])), W, R,
                          np.concatenate([b, np.zeros_like(b)], axis=1), outputs=2, hidden_size=model.hidden,
                          direction=direction)
    return [g.add('Squeeze', outputs, np.array([1])), g.add('Squeeze', last, np.array([0]))]


def _step_encoder_decoder(model: Any, g: Any, state: list[str], tokens: str) -> tuple[list[str], str]:
    outputs, place = state
    column = np.array([1])
    last = g.add('Min', place, np.array([model.max_positions - 1]))
    scores = _linear(g, g.add('GatherND', outputs, g.add('Unsqueeze', last, column), batch_dims=1), model.out_word)
    after = np.full((1, model.vocabulary_size), -np.inf, np.float32)
    after[0, EOS] = 0
    is_place = g.add('Unsqueeze', g.add('Less', place, np.array([model.max_positions])), column)
    return [outputs, g.add('Add', place, np.array([1]))], g.add('Where', is_place, scores, after)


def _double(g: Any, value: Any) -> str:
    return g.add('Cast', value, to=TensorProto.DOUBLE)  # of a constant: it is stored as float32


def _advance(model: Any, g: Any, gates: str, c: str | None) -> list[str]:
    *sigmoids, new = g.add('Split', gates, np.array([model.hidden] * 3 + [len(model.upward.b) - 3 * model.hidden]),
                           axis=1, outputs=4)
    i, f, o = (g.add('Sigmoid', gate) for gate in sigmoids)
    if model.cell == 'lstm_maxout':
        candidate = g.add('Max', *g.add('Split', new, axis=1, outputs=2))
    else:
        candidate = g.add('Tanh', new)
    read = g.add('Mul', i, candidate)
    c = read if c is None else g.add('Add', read, g.add('Mul', f, c))
    return [g.add('Mul', o, c if model.cell == 'lstm_linear_output' else g.add('Tanh', c)), c]


def _linear_double(g: Any, x: str, link: Any, *bias: str) -> str:
    bias = bias or (_double(g, link.b.array),)
    return g.add('Gemm', x, _double(g, link.W.array), *bias, transB=1)


def _start_imported(model: Any, g: Any, features: str) -> list[str]:
    image = _linear_double(g, _double(g, features), model.image_vec)
    return _advance(model, g, _linear_double(g, image, model.upward), None)


def _step_imported(model: Any, g: Any, state: list[str], tokens: str) -> tuple[list[str], str]:
    h, c = state
    word = _linear_double(g, _double(g, g.add('Gather', model.word_vec.W.array, tokens)), model.upward)
    h, c = _advance(model, g, _linear_double(g, h, model.lateral, word), c)
    bias = model.out_word.b.array.copy()
    bias[[SPECIAL.index(word) for word in model.unsaid]] = -np.inf
    return [h, c], g.add('Gemm', g.add('Cast', h, to=TensorProto.FLOAT), model.out_word.W.array, bias, transB=1)


#: Of each architecture the functions `start(model, graph, features)` and `step(model, graph, state, tokens)`.
DECODERS: dict[type, tuple[Any, Any]] = {
    ShowAndTell: (_start_show_and_tell, _step_show_and_tell), Merge: (_start_merge, _step_merge),
    EncoderDecoder: (_start_encoder_decoder, _step_encoder_decoder), Imported: (_start_imported, _step_imported)}
