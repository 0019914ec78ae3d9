"""Split encoders: the parts equal the whole, and the upper part has the gradients of finite differences."""
import chainer
import numpy as np
import pytest
from chainer import gradient_check
from test_features_encoders import random_state, write

from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS, demo
from chainer_caption.features.encoders.efficientnet import EfficientNetLite0
from chainer_caption.features.encoders.stages import run_stages, split
from chainer_caption.features.encoders.vgg import VGG
from chainer_caption.features.weights import find_weights, load_weights


def small_vgg(path):
    link, rng = VGG((1, 2), width=4, units=6, size=8), np.random.default_rng(0)
    for param in link.params():
        param.array[:] = rng.normal(0, 0.3, param.shape)
    return link


def lite0(path):
    link = EfficientNetLite0()
    write(path / 'zip.pth', random_state(link))
    load_weights(link, path / 'zip.pth')
    return link


def demo_net(path):
    link = ENCODERS['demo'].link()
    load_weights(link, find_weights(ENCODERS['demo']))
    return link


NETS = {'vgg': (small_vgg, 8), 'efficientnet_lite0': (lite0, 33), 'demo': (demo_net, 96)}


def images(size, count=2):
    return np.random.default_rng(1).normal(0, 1, (count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize(('name', 'layer'), [
    ('vgg', 'all'), ('vgg', 'conv2_2'), ('vgg', 'fc7'), ('efficientnet_lite0', 'block11'),
    ('efficientnet_lite0', 'head'), ('demo', 'conv5'), ('demo', 'fc7')])
def test_gradients_equal_finite_differences(name, layer, tmp_path, monkeypatch):
    make, size = NETS[name]
    link = make(tmp_path)
    below, above = split(link, layer)
    # Rounding has no slope, and finite differences must not cross the threshold.
    monkeypatch.setattr(demo, '_rounded', lambda x: x)
    monkeypatch.setattr(demo, 'THRESHOLD', demo.THRESHOLD - 0.4)
    params = [param for stage in above for name in stage.links for param in link[name].params()]
    with chainer.using_config('train', False):
        with chainer.no_backprop_mode():
            h = chainer.as_variable(run_stages(below, images(size))).array
        shape = run_stages(above, h).shape
        gy = np.random.default_rng(2).normal(0, 1, shape).astype(np.float32)
        gradient_check.check_backward(lambda x, *_: run_stages(above, x), h, gy, params, dtype=np.float64, eps=1e-6,
                                      rtol=1e-5, atol=1e-5)


def test_gradients_pass_the_demo_encoders_rounding():
    x = chainer.Variable(np.array([[-0.6, 0.2, 0.5, 3.7]], np.float32))
    y = demo._rounded(x)
    assert y.array.tolist() == [[-1, 0, 1, 4]]
    y.grad = np.array([[1, 2, 3, 4]], np.float32)
    y.backward()
    assert x.grad.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize('name', ['vgg', 'efficientnet_lite2', 'demo', 'resnet101_torchvision', 'inception_v3'])
def test_every_link_is_in_one_stage_and_names_it(name, tmp_path):
    link = small_vgg(tmp_path) if name == 'vgg' else ENCODERS[name].link()
    stages = link.stages()
    assert sorted(name for stage in stages for name in stage.links) == sorted(child.name for child in link.children())
    assert len({stage.name for stage in stages}) == len(stages)
    for at, stage in enumerate(stages):
        for layer in (stage.name, *stage.links):
            below, above = split(link, layer)
            assert (len(below), above[0].name) == (at, stage.name)


def test_unknown_layers_are_refused():
    with pytest.raises(InputError, match=r'^finetune conv9: no layer .* conv1, .* fc8, or all'):
        split(ENCODERS['demo'].link(), 'conv9')
    with pytest.raises(InputError, match='a GoogLeNet is computed as a whole'):
        split(ENCODERS['googlenet'].link(), 'all')
