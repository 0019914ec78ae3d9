"""Smaller weights in ONNX files."""
from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from chainer_caption.errors import InputError

#: The precisions of weights. Computation is in float32 in all of them.
PRECISIONS = 'float32', 'float16'

_SMALL = 1024                   # numbers; smaller arrays, such as biases, are left as they are


def with_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A graph with its float32 weights stored in a precision; ONNX Runtime converts them back when it loads the file.
    InputError where a weight is too large for it, or the precision is unknown."""
    if precision not in PRECISIONS:
        raise InputError.of('precision', precision, f'is one of {", ".join(PRECISIONS)}')
    if precision == 'float32':
        return model
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    casts = []
    for tensor in smaller.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        array = numpy_helper.to_array(tensor)
        with np.errstate(over='ignore'):
            half = array.astype(np.float16)
        if not np.isfinite(half[np.isfinite(array)]).all():
            raise InputError.of('precision', precision, 'a weight of the model is too large for it; export float32')
        casts.append(helper.make_node('Cast', [f'{tensor.name}.half'], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(half, f'{tensor.name}.half'))
    nodes = [*casts, *smaller.graph.node]
    del smaller.graph.node[:]
    smaller.graph.node.extend(nodes)
    return smaller
