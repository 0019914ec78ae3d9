"""Small image networks as ONNX files, and their features by NumPy."""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(3)
KERNEL = RNG.normal(size=(5, 3, 2, 2)).astype(np.float32) / 3
DTYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}


def value(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def network(path, outputs=('features',), size=8, batch='N', layout='NCHW', dtype=TensorProto.FLOAT, declared=None,
            nodes=(), opsets=(), weights=()):
    """Writes a network: a convolution of 2 x 2 pixels with stride 2 and ReLU, which is the output `grid`, (N, 5, h, w);
    its mean over the locations, `pooled`, (N, 5, 1, 1), and `features`, (N, 5); and `tokens`, (N, h * w, 5)."""
    side = size or 'S'
    image = [batch, 3, side, side] if layout == 'NCHW' else [batch, side, side, 3]
    half = size // 2 if size else 'h'
    there = {'grid': [batch, 5, half, half], 'pooled': [batch, 5, 1, 1], 'features': [batch, 5],
             'tokens': [batch, half * half if size else 'L', 5], **(declared or {})}
    make = helper.make_node
    graph = helper.make_graph([
        *([make('Transpose', ['images'], ['channels'], perm=[0, 3, 1, 2])] if layout == 'NHWC' else []),
        make('Conv', ['channels' if layout == 'NHWC' else 'images', 'kernel'], ['convolved'], strides=[2, 2]),
        make('Relu', ['convolved'], ['grid']), make('GlobalAveragePool', ['grid'], ['pooled']),
        make('Flatten', ['pooled'], ['features']),
        make('Reshape', ['grid', 'shape'], ['rows']), make('Transpose', ['rows'], ['tokens'], perm=[0, 2, 1]), *nodes],
        'network', [value('images', image, dtype)], [value(name, there[name], dtype) for name in outputs],
        [numpy_helper.from_array(KERNEL.astype(DTYPES[dtype]), 'kernel'),
         numpy_helper.from_array(np.array([0, 5, -1]), 'shape'), *weights])
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid('', 17), *opsets])
    onnx.save(made, path)
    return path


def grids(images):
    """The output `tokens` of images (N, 3, S, S), in float64."""
    count, _, height, width = images.shape
    patches = images.astype(np.float64).reshape(count, 3, height // 2, 2, width // 2, 2)
    return np.maximum(np.einsum('nchiwj,ocij->nhwo', patches, KERNEL), 0).reshape(count, -1, 5)
