"""Image encoders as ONNX graphs: an encoder runs once in Chainer, and each function that it called becomes a node."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import chainer
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8       #: of the graphs, which ONNX Runtime reads since 1.12
INPUT, FEATURES, GRID = 'images', 'features', 'grid'    #: names of the input and of the outputs

_TRACED = 65                    # side of the traced image, where the graph takes any size


def encoder_graph(link: Any, size: int | None, grid: bool = False,
                  compute: Callable[[Any], Any] | None = None) -> onnx.ModelProto:
    """The graph of an image encoder with its present weights, checked by `onnx.checker`.

    Its input `images` are N prepared images, (N, 3, S, S) float32 for any N; its output `features` is (N, D), float32.

    Args:
        link: The encoder, a Chain of `features/encoders` on the CPU.
        size: S; None for images of any height and width, (N, 3, H, W), which Caffe's ResNet-101 takes.
        grid: Adds the output `grid`, (N, D, h, w), the last grid, whose mean over its locations is `features`.
        compute: In place of the whole encoder, a part of it: a function of the images whose output, (N, …), is
            `features`.

    Raises:
        ValueError: The encoder calls a function that has no ONNX node here, or has no such grid."""
    side = size or _TRACED
    x = chainer.Variable(np.zeros((1, 3, side, side), np.float32))     # requires a gradient: calls are recorded
    calls = _Calls()
    with calls, chainer.using_config('train', False), chainer.force_backprop_mode():
        features = chainer.as_variable((compute or link)(x))
    graph = _Graph(link, x.node)
    for function, arrays in calls:
        graph.convert(function, arrays)
    images = _value(INPUT, ['N', 3, *([size] * 2 if size else ['H', 'W'])])
    outputs = [_value(FEATURES, ['N', *features.shape[1:]])]
    graph.rename(graph.names[features.node], FEATURES)
    if grid:
        if graph.pooled is None:
            raise ValueError(f'the features of a {type(link).__name__} are not the mean of a grid')
        graph.rename(graph.pooled[0], GRID)
        outputs.append(_value(GRID, ['N', *graph.pooled[1]] if size else ['N', graph.pooled[1][0], 'h', 'w']))
    made = helper.make_graph(graph.nodes, type(link).__name__, [images], outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION,
                              producer_name='chainer_caption')
    onnx.checker.check_model(model)
    return model


def _value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class _Calls(chainer.FunctionHook):
    """The function nodes that are called within it, in order, with their input arrays."""

    name = 'EncoderGraph'

    def __init__(self) -> None:
        self._made: list[tuple[Any, tuple]] = []

    def forward_postprocess(self, function: Any, in_data: tuple) -> None:
        self._made.append((function, in_data))

    def __iter__(self) -> Any:
        return iter(self._made)


class _Graph:
    """Nodes and constants; `names` has the tensor of each chainer.variable.VariableNode that depends on the images."""

    def __init__(self, link: Any, images: Any) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names = {images: INPUT}
        #: The last grid that was averaged over its locations: its name and its shape without N.
        self.pooled: tuple[str, tuple[int, ...]] | None = None
        self._paths = {id(param.array): path[1:] for path, param in link.namedparams()}
        self._known: dict[int, tuple[str, Any]] = {}            # with the array itself, or another might get its id
        self._padded: dict[str, tuple[str, list[int]]] = {}     # tensor, to what it is padded from and by how much

    def convert(self, function: Any, arrays: tuple) -> None:
        """Adds the nodes of one call of a function."""
        if function.inputs is None or not any(node in self.names for node in function.inputs):
            return                                      # of constants alone, whose result is one
        convert = _CONVERTERS.get(type(function).__name__)
        if convert is None:
            raise ValueError(f'no ONNX node for the function {type(function).__name__} of this encoder')
        result = function.outputs[0]()
        if result is not None:                          # or nothing uses it
            inputs = [self.names[node] if node in self.names else self.constant(array)
                      for node, array in zip(function.inputs, arrays, strict=True)]
            self.names[result] = convert(self, function, inputs, [array.shape for array in arrays], result.shape)

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        if any(name in self._padded for name in inputs):
            raise ValueError(f'no ONNX node for the padding of what is not convolved ({operator})')
        output = f't{len(self.nodes)}'
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, array: Any) -> str:
        """The name of an array's initializer."""
        if id(array) not in self._known:
            name = self._paths.get(id(array), f'constant{len(self.constants)}')
            self._known[id(array)] = name, array
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return self._known[id(array)][0]

    def scalar(self, value: float) -> str:
        """The name of a new initializer with one float32."""
        return self.constant(np.array(value, np.float32))

    def pad(self, name: str, pads: list[int]) -> str:
        """A tensor padded by zeros, above, left, below and right; the convolution that reads it pads it."""
        self._padded[f'{name}+{pads}'] = name, pads
        return f'{name}+{pads}'

    def padding(self, name: str) -> tuple[str, list[int]]:
        """The tensor that another was padded from, and by how much."""
        return self._padded.get(name, (name, [0, 0, 0, 0]))

    def rename(self, name: str, new: str) -> None:
        """Renames a tensor."""
        for node in self.nodes:
            for names in node.input, node.output:
                for i, other in enumerate(names):
                    if other == name:
                        names[i] = new


# ---- The node of each function of Chainer. Arguments: the graph, the function, the names and shapes of its inputs, the
# shape of its output. Returns the name of its output.

_Converter = Callable[[_Graph, Any, list[str], list[tuple], tuple], str]


def _convolution(stride: Callable, pad: Callable, groups: Callable) -> _Converter:
    def convert(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
        x, pads = graph.padding(inputs[0])
        pads = [a + b for a, b in zip(pads, [*pad(f), *pad(f)], strict=True)]
        return graph.add('Conv', [x, *inputs[1:]], strides=stride(f), pads=pads, group=groups(f, shapes[1]),
                         kernel_shape=shapes[1][2:], dilations=[getattr(f, 'dy', 1), getattr(f, 'dx', 1)])
    return convert


def _max_pool(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    return graph.add('MaxPool', inputs, kernel_shape=f.ksize, strides=f.stride, pads=f.pad * 2,
                     ceil_mode=int(f.cover_all))


def _average_pool(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    if (f.kh, f.kw) == shapes[0][2:] and out[2:] == (1, 1):
        graph.pooled = inputs[0], shapes[0][1:]
        return graph.add('GlobalAveragePool', inputs)
    return graph.add('AveragePool', inputs, kernel_shape=[f.kh, f.kw], strides=[f.sy, f.sx], pads=[f.ph, f.pw] * 2,
                     count_include_pad=1)


def _mean(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    if len(shapes[0]) != 4 or tuple(f.axis) != (2, 3) or f.keepdims:
        raise ValueError('no ONNX node for a mean other than that over the locations of a grid')
    graph.pooled = inputs[0], shapes[0][1:]
    return graph.add('Flatten', [graph.add('GlobalAveragePool', inputs)])


def _pad(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    (_, _, (above, below), (left, right)) = widths = np.broadcast_to(f.pad_width, (4, 2)).tolist()
    if f.mode != 'constant' or f.keywords or widths[:2] != [[0, 0]] * 2:
        raise ValueError(f'no ONNX node for padding by {f.mode} {f.keywords}')
    return graph.pad(inputs[0], [above, left, below, right])


def _reshape(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    if out[0] != shapes[0][0]:
        raise ValueError(f'no ONNX node for the reshaping of {shapes[0]} to {out}, which changes the batch')
    if len(out) == 2:
        return graph.add('Flatten', inputs)
    return graph.add('Reshape', [*inputs, graph.constant(np.array([0, *out[1:]], np.int64))])


def _take(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    if not all(isinstance(part, slice) and part.start is part.stop is None for part in f.slices):
        raise ValueError(f'no ONNX node for the indices {f.slices}')
    steps = [part.step or 1 for part in f.slices]
    whole = [0] * len(steps), [2 ** 31 - 1] * len(steps), list(range(len(steps))), steps
    return graph.add('Slice', [*inputs, *(graph.constant(np.array(part, np.int64)) for part in whole)])


def _simple(operator: str, attributes: Callable[[Any], dict] = lambda f: {}) -> _Converter:
    return lambda graph, f, inputs, shapes, out: graph.add(operator, inputs, **attributes(f))


def _with_scalar(operator: str) -> _Converter:
    return lambda graph, f, inputs, shapes, out: graph.add(operator, [*inputs, graph.scalar(f.value)])


def _rounded(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    return graph.add('Floor', [graph.add('Add', [*inputs, graph.scalar(0.5)])])


def _clip(graph: _Graph, f: Any, inputs: list[str], shapes: list[tuple], out: tuple) -> str:
    return graph.add('Clip', [*inputs, graph.scalar(0), graph.scalar(f.cap)])


# ONNX divides alpha by the number of channels. Its Softmax, Concat and Gemm are those of Chainer.
_CONVERTERS: dict[str, _Converter] = {
    'Convolution2DFunction': _convolution(lambda f: [f.sy, f.sx], lambda f: [f.ph, f.pw], lambda f, W: f.groups),
    '_Pointwise': _convolution(lambda f: [1, 1], lambda f: [0, 0], lambda f, W: 1),
    '_Depthwise': _convolution(lambda f: [f._stride] * 2, lambda f: [0, 0], lambda f, W: W[0]),
    'Pad': _pad, 'GetItem': _take, 'Reshape': _reshape, 'Mean': _mean, '_Rounded': _rounded, 'ClippedReLU': _clip,
    'MaxPoolingND': _max_pool, 'AveragePooling2D': _average_pool,
    'FixedBatchNormalization': _simple('BatchNormalization', lambda f: {'epsilon': f.eps}),
    'LocalResponseNormalization': _simple('LRN', lambda f: {
        'size': f.n, 'bias': float(f.k), 'alpha': f.alpha * f.n, 'beta': f.beta}),
    'LinearFunction': _simple('Gemm', lambda f: {'transB': 1}),
    'Concat': _simple('Concat', lambda f: {'axis': f.axis}), 'Softmax': _simple('Softmax', lambda f: {'axis': f.axis}),
    'ReLU': _simple('Relu'), 'Add': _simple('Add'),
    'AddConstant': _with_scalar('Add'), 'MulConstant': _with_scalar('Mul'),
}
