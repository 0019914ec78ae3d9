"""Decoders as ONNX graphs: the recurrence of `models.decoder` for programs without Chainer.

`start` maps features, (n, D) float32, to the state, arrays with a row for each image. `step` maps the state, `parents`
and `tokens`, (m,) int64 each, to the next state, a row for each hypothesis, and `log_probs`, (m, V) float32: the
log-probabilities of the next words. The first step reads `<S>`.

An architecture has an ONNX form if `models.onnx_decoders` knows it, or if it has the methods

- `onnx_start(graph, features)`: adds the nodes of a decoder's `start`, and returns the names of the state's arrays;
- `onnx_step(graph, state, tokens)`: adds those of its `step` for a state whose rows are already those of the parents;
  returns the names of the next state's arrays, in the same order, and of the next words' scores with their biases."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from chainer_caption.errors import InputError
from chainer_caption.features.onnx_graph import IR_VERSION, OPSET
from chainer_caption.models.onnx_decoders import DECODERS

FEATURES, PARENTS, TOKENS, LOG_PROBS = 'features', 'parents', 'tokens', 'log_probs'     #: names of inputs and outputs


class Graph:
    """Nodes and constants of an ONNX graph."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | np.ndarray, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or the list of their names; arrays among its inputs are
        constants, and None is an optional input that is left out."""
        names = [self._name(value) for value in inputs]
        made = [f't{len(self._nodes)}_{i}' for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, names, made, **attributes))
        return made[0] if outputs == 1 else made

    def _name(self, value: Any) -> str:
        if value is None or isinstance(value, str):
            return value or ''
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), f'constant{len(self._constants)}'))
        return self._constants[-1].name

    def model(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: dict[str, str]) -> onnx.ModelProto:
        """The checked model of this graph. `outputs` has the tensor of each output; their types are inferred."""
        self._nodes += [helper.make_node('Identity', [tensor], [output]) for output, tensor in outputs.items()]
        made = helper.make_graph(self._nodes, name, inputs, [onnx.ValueInfoProto(name=output) for output in outputs],
                                 self._constants)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION,
                                  producer_name='chainer_caption')
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        return model


def decoder_graphs(model: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The graphs `start` and `step` of a model on the CPU, checked by `onnx.checker`; InputError where its architecture
    reads grids or has no ONNX form."""
    if model.reads != 'vectors':
        raise InputError(f'the model reads {model.reads}; only models that read vectors can be exported')
    if type(model) in DECODERS:                         # a subclass may have another decoder
        start, step = DECODERS[type(model)]
    elif hasattr(model, 'onnx_start') and hasattr(model, 'onnx_step'):
        start, step = type(model).onnx_start, type(model).onnx_step
    else:
        raise InputError(f'the architecture {model.architecture} has no ONNX form; give it the methods onnx_start and '
                         'onnx_step (models/onnx_graph.py)')
    graph = Graph()
    state = start(model, graph, FEATURES)
    features = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ['images', model.feature_size])
    started = graph.model('start', [features], {f'state{i}': tensor for i, tensor in enumerate(state)})
    inputs = [_with_rows(value, 'rows') for value in started.graph.output]
    rows = [helper.make_tensor_value_info(name, TensorProto.INT64, ['hypotheses']) for name in (PARENTS, TOKENS)]
    graph = Graph()
    state, scores = step(model, graph, [graph.add('Gather', value.name, PARENTS) for value in inputs], TOKENS)
    outputs = {f'next_state{i}': tensor for i, tensor in enumerate(state)}
    stepped = graph.model('step', [*inputs, *rows], {**outputs, LOG_PROBS: graph.add('LogSoftmax', scores, axis=1)})
    return started, stepped


def _with_rows(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """A description of an array with its number of rows under another name."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.type.tensor_type.shape.dim[0].dim_param = name
    return copy
