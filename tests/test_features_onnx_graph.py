"""The ONNX graph of each encoder gives the features that Chainer computes."""
import chainer
import chainer.functions as F
import numpy as np
import pytest

from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.encoders.vgg import VGG
from chainer_caption.storage.serializers import to_arrays

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from chainer_caption.features.onnx_graph import encoder_graph  # noqa: E402 (imports onnx)

# Sides that are odd where an encoder takes any, so that every padding and every rounding counts.
SIZES = {'efficientnet_lite0': 97, 'efficientnet_lite2': 67, 'demo': 96, 'resnet101_torchvision': 65, 'resnet101': 67,
         'inception_v3': 107, 'googlenet': 224}


def encoder(name):
    """An encoder whose activations stay in range."""
    link, rng = VGG((1, 2), 8, 24, 16) if name == 'vgg' else ENCODERS[name].link(), np.random.default_rng(0)
    for path, array in to_arrays(link).items():
        kind = path.rsplit('/', 1)[-1]
        if kind == 'W':
            array[...] = rng.normal(0, (2 / np.prod(array.shape[1:])) ** 0.5, array.shape)
        elif kind in ('gamma', 'avg_var'):
            array[...] = rng.uniform(0.4, 0.9, array.shape)
        elif kind in ('b', 'beta', 'avg_mean'):
            array[...] = rng.normal(0, 0.1, array.shape)
    return link


def images(count, *sides):
    return np.random.default_rng(1).normal(0, 1, (count, 3, *sides)).astype(np.float32)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, {'images': x})


def by_chainer(link, x):
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        return link(x).array


def assert_equal(got, expected):
    assert got.shape == expected.shape and expected.std() > 0.01
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('name', [*SIZES, 'vgg'])
def test_graphs_equal_chainer(name):
    link, size = encoder(name), SIZES.get(name, 16)
    grid = name in ENCODERS and ENCODERS[name].grid_mean
    whole = name == 'resnet101'                         # takes images of any size
    model = encoder_graph(link, None if whole else size, grid)
    for shape in [(3, 33, 97), (1, 66, 64)] if whole else [(3, size, size), (1, size, size)]:
        x = images(*shape)
        got, *last = run(model, x)
        expected = by_chainer(link, x)
        if name == 'demo':                              # rounded to quarters
            assert (got != expected).mean() < 0.01
        else:
            assert_equal(got, expected)
        if grid:
            assert last[0].ndim == 4 and last[0][0, 0].size > 1
            assert_equal(last[0].mean(axis=(2, 3)), got)
    assert {'conv1/W', 'stem/W', 'conv1_1/W', 'Conv2d_1a_3x3/W'} & {c.name for c in model.graph.initializer}


def test_vgg_has_no_grid():
    with pytest.raises(ValueError, match='a VGG are not the mean of a grid'):
        encoder_graph(encoder('vgg'), 16, grid=True)


@pytest.mark.parametrize(('compute', 'reason'), [
    (F.sigmoid, 'the function Sigmoid'), (lambda x: F.mean(x, axis=1), 'a mean other than'),
    (lambda x: F.pad(x, 1, 'constant'), 'padding by constant'), (lambda x: F.reshape(x, (-1, 3)), 'changes the batch'),
    (lambda x: F.relu(F.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), 'constant')), 'of what is not convolved'),
    (lambda x: x[:, :2], 'the indices')])
def test_functions_without_a_node_are_refused_by_name(compute, reason):
    class Own(chainer.Chain):
        def forward(self, x):
            return compute(x)

    with pytest.raises(ValueError, match=f'no ONNX node for .*{reason}'):
        encoder_graph(Own(), 8)
