"""Encoders in ONNX Runtime and OpenVINO: features are Chainer's, the cache is used and checked, both may be missing."""
import json
import shutil
import sys
from types import SimpleNamespace

import chainer
import numpy as np
import pytest
from PIL import Image

from chainer_caption.errors import InputError
from chainer_caption.features import extractor as module
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.extractor import Extractor, load_encoder
from chainer_caption.features.inference import Engine, usable_precision
from chainer_caption.features.weights import find_weights
from chainer_caption.storage.cache import cache_folder

pytest.importorskip('onnxruntime')


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The demo encoder's weights, and an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return shutil.copy(find_weights(ENCODERS['demo']), tmp_path / 'weights.npz')


@pytest.fixture
def loads(monkeypatch):
    """The paths of weights that are loaded into Chainer."""
    paths, load = [], module.load_weights

    def load_weights(link, path):
        paths.append(path)
        return load(link, path)

    monkeypatch.setattr(module, 'load_weights', load_weights)
    return paths


def images(count=3):
    return np.random.default_rng(0).normal(0, 1, (count, 3, 96, 96)).astype(np.float32)


def by_chainer(weights, x):
    link, *_ = load_encoder('demo', weights)
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        return link(x).array


def graphs():
    return sorted(cache_folder().glob('*/*.onnx'))


def test_the_cache_takes_the_place_of_the_weights(weights, loads):
    x = images()
    first = Extractor.load('demo', weights=weights)
    assert len(loads) == len(graphs()) == 1
    second = Extractor.load('demo', weights=weights)
    assert len(loads) == 1 and second.identity == first.identity and second.preprocessing == 'demo'
    np.testing.assert_array_equal(first(x), second(x))
    assert (first(x) == by_chainer(weights, x)).mean() > 0.99           # rounded to quarters
    # Other weights in the same file have a graph of their own.
    arrays = dict(np.load(weights))
    np.savez(weights, **{**arrays, 'fc8/W': arrays['fc8/W'] * 2})
    other = Extractor.load('demo', weights=weights)
    assert len(loads) == 3 and len(graphs()) == 1 and (other(x) != first(x)).any()


@pytest.mark.parametrize('damage', [
    lambda data: data[:-1], lambda data: data[:70], lambda data: b'', lambda data: b'\0' * 2 ** 16,
    lambda data: data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:],
    lambda data: data.replace(b'\ndemo\n', b'\nseed\n', 1)])
def test_a_damaged_graph_is_made_again(damage, weights, loads):
    expected = Extractor.load('demo', weights=weights)(images())
    path, = graphs()
    data = path.read_bytes()
    path.write_bytes(damage(data))
    again = Extractor.load('demo', weights=weights)
    np.testing.assert_array_equal(again(images()), expected)
    assert len(loads) == 2 and again.preprocessing == 'demo'
    assert Extractor.load('demo', weights=weights) and len(loads) == 2


def test_without_a_cache(weights, loads, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', '/dev/null')
    assert [len(Extractor.load('demo', weights=weights)(images())) for _ in range(2)] == [3, 3] and len(loads) == 2


def test_features_depend_on_neither_the_batch_nor_the_threads(weights, monkeypatch):
    extractor, x = Extractor.load('demo', weights=weights), images(5)
    together = extractor(x)
    for threads in '1', '3':
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
        np.testing.assert_array_equal(extractor(x), together)
        np.testing.assert_array_equal(np.concatenate([extractor([image]) for image in x]), together)


@pytest.mark.parametrize('missing', ['onnx', 'onnxruntime'])
def test_chainer_takes_the_place_of_a_missing_runtime(missing, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, 'chainer_caption.features.onnx_graph', raising=False)
    said = []
    extractor = Extractor.load('demo', weights=weights, say=said.append)
    assert said == [f'{missing} is not installed, so Chainer computes the image encoder, several times slower; pip '
                    'install onnx onnxruntime']
    np.testing.assert_array_equal(extractor(images()), by_chainer(weights, images()))


def test_a_graph_that_is_none():
    for precision in 'float32', 'bf16':
        if precision == 'bf16':
            pytest.importorskip('openvino')
        with pytest.raises(ValueError, match='cannot read the graph'):
            Engine(b'nonsense', precision)


# ---- bfloat16

def test_bfloat16_without_openvino(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    (tmp_path / 'images').mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / 'images' / 'a.png')
    for command in (('extract_features', tmp_path / 'images', '-o', tmp_path / 'd', '--encoder', 'demo'),
                    ('generate', tmp_path / 'images'), ('serve', '--port', '0'),
                    ('benchmark', 'extract', '--encoder', 'demo')):
        status, _, err = call(*command, '--encoder-precision', 'bf16')
        assert status == 2 and err.splitlines()[-1] == (
            f'{command[0]}.py: --encoder-precision bf16: needs openvino; scripts/setup.sh openvino installs it')
    status, _, err = call(*command, '--encoder-precision', 'int8')
    assert status == 2 and err.endswith('--encoder-precision int8: must be float32 or bf16\n')
    status, _, err = call('generate', '--dataset', tmp_path, '--encoder-precision', 'bf16')
    assert status == 2 and '--encoder-precision is for images; a --dataset has its features already' in err


def test_bfloat16_where_there_is_none(monkeypatch):
    said = []
    assert usable_precision('bf16', SimpleNamespace(xp=None), said.append) == 'float32'
    core = SimpleNamespace(get_property=lambda device, name: ['FP32', 'INT8'])
    monkeypatch.setitem(sys.modules, 'openvino', SimpleNamespace(Core=lambda: core))
    assert usable_precision('bf16', chainer.get_device('@numpy'), said.append) == 'float32'
    assert [line.split(': ')[1] for line in said] == ['is for CPUs; computing in float32',
                                                      'this CPU has no bfloat16; computing in float32']


def test_bfloat16(weights, call, tmp_path):
    openvino = pytest.importorskip('openvino')
    if 'BF16' not in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        pytest.skip('needs a CPU with bfloat16')
    exact, rounded = (Extractor.load('demo', weights=weights, precision=p) for p in ('float32', 'bf16'))
    assert rounded.identity == {**exact.identity, 'encoder-precision': 'bf16'}
    x = images(7)
    a, b = exact(x), rounded(x)
    assert not np.array_equal(a, b)
    assert ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.95
    np.testing.assert_array_equal(np.concatenate([rounded([image]) for image in x]), b)
    # Rows of both are not mixed.
    (tmp_path / 'images').mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / 'images' / 'a.png')
    command = 'extract_features', tmp_path / 'images', '-o', tmp_path / 'd', '--encoder', 'demo'
    assert call(*command, '--encoder-precision', 'bf16')[0] == 0
    assert json.loads((tmp_path / 'd' / 'feats.npy.json').read_text())['encoder-precision'] == 'bf16'
    status, _, err = call(*command)
    assert status == 2 and 'encoder-precision bf16, not float32' in err and err.count('\n') == 1
    # A record of an earlier version has no precision, and was of float32.
    record = json.loads((tmp_path / 'd' / 'feats.npy.json').read_text())
    del record['encoder-precision']
    (tmp_path / 'd' / 'feats.npy.json').write_text(json.dumps(record))
    assert call(*command)[0] == 0 and call(*command, '--encoder-precision', 'bf16')[0] == 2


def test_weights_of_another_encoder_are_refused_with_a_graph_of_the_right_one_there(weights):
    Extractor.load('demo', weights=weights)
    with pytest.raises(InputError, match='are these weights of another encoder'):
        Extractor.load('efficientnet_lite0', weights=weights)
