"""check-features: finds the images, identifies what made their features, and records it on request."""
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from chainer_caption import Dataset, InputError
from chainer_caption.features.check import find_extractors, sample_images
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.encoders.vgg import VGG16, VGG19
from chainer_caption.features.extractor import Extractor

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'

# VGG encoders as deep as the real ones and much narrower, so that they take a second and not a minute.
SMALL = {'width': 2, 'units': 64}


class SmallVGG16(VGG16):
    def __init__(self):
        super().__init__(**SMALL)


class SmallVGG19(VGG19):
    def __init__(self):
        super().__init__(**SMALL)


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch, tmp_path):
    monkeypatch.setattr('chainer.dataset.download._dataset_root', str(tmp_path / 'nothing'))
    for name, link in (('vgg16', SmallVGG16), ('vgg19', SmallVGG19)):
        monkeypatch.setitem(ENCODERS, name, dataclasses.replace(ENCODERS[name], link=link, dim=64))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Files of random weights, by encoder."""
    folder, paths = tmp_path_factory.mktemp('weights'), {}
    for seed, (name, link) in enumerate((('vgg16', SmallVGG16()), ('vgg19', SmallVGG19()))):
        rng = np.random.default_rng(seed)
        paths[name] = folder / f'{seed}.npz'
        scale = {path: (2 / np.prod(p.shape[1:])) ** 0.5 if p.ndim > 1 else 0.1 for path, p in link.namedparams()}
        np.savez(paths[name], **{path[1:]: scale[path] * rng.standard_normal(p.shape, np.float32)
                                 for path, p in sorted(link.namedparams())})
    return paths


@pytest.fixture
def images(tmp_path):
    """Smooth random images, in folders of their own."""
    rng = np.random.default_rng(0)
    for i, size in enumerate([(300, 200), (200, 300), (260, 250), (90, 120), (150, 80)]):
        path = tmp_path / 'images' / str(i % 2) / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC).save(path)
    return tmp_path / 'images'


@pytest.fixture
def make(images, weights, tmp_path):
    """A dataset whose features were made by an encoder under a preprocessing; its rows are in another order than its
    images, its file names lack the folders, and one image is not at hand."""
    def dataset(encoder, preprocessing, factor=1.0):
        extractor = Extractor.load(encoder, preprocessing, weights[encoder])
        names = ['4.png', '2.png', 'missing.png', '0.png', '3.png', '1.png']
        rows = [3, 0, 5, 1, 4, 2]
        feats = np.random.default_rng(1).random((6, 64)).astype(np.float16)
        for name, row in zip(names, rows, strict=True):
            for path in images.rglob(name):
                feats[row] = extractor(extractor.prepare(path)[None])[0] * factor
        folder = tmp_path / f'{encoder}-{preprocessing}'
        folder.mkdir()
        np.save(folder / 'feats.npy', feats)
        (folder / 'dataset.json').write_text(json.dumps({'images': [
            {'filename': name, 'imgid': row, 'split': 'test', 'sentences': []}
            for name, row in zip(names, rows, strict=True)]}))
        return folder
    return dataset


def both(weights):
    return [argument for path in weights.values() for argument in ('-i', path)]


@pytest.mark.parametrize('encoder', ['vgg16', 'vgg19'])
@pytest.mark.parametrize('preprocessing', ['karpathy', 'seed', 'torchvision'])
def test_each_pair_is_named_and_recorded(encoder, preprocessing, make, images, weights, call):
    dataset = make(encoder, preprocessing)
    before = {path.name: path.read_bytes() for path in dataset.iterdir()}
    status, out, err = call('check_features', dataset, images, *both(weights))
    assert (status, err) == (0, '')
    lines = out.splitlines()
    assert 'mean of 5 images' in lines[0] and len(lines) == 1 + 6 + 1
    assert lines[1].split()[:2] == [encoder, preprocessing] and float(lines[1].split()[2]) > 0.999
    assert lines[-1] == f'verdict: {encoder} with the preprocessing {preprocessing} made {dataset / "feats.npy"}'
    assert {path.name: path.read_bytes() for path in dataset.iterdir()} == before, 'nothing is written unasked'
    assert Dataset(dataset).provenance is None
    status, out, err = call('check_features', dataset, images, *both(weights), '--write')
    assert status == 0 and out.endswith(f'recorded in {dataset / "feats.npy.json"}\n')
    assert Dataset(dataset).provenance == {'encoder': encoder, 'preprocessing': preprocessing}
    assert {path.name for path in dataset.iterdir()} == {*before, 'feats.npy.json'}


def test_a_matrix_of_another_encoder(make, images, weights, call):
    dataset = make('vgg19', 'karpathy')
    status, out, _ = call('check_features', dataset, images, '-i', weights['vgg16'], '--write')
    assert status == 1 and 'verdict: none of these made' in out and not (dataset / 'feats.npy.json').exists()
    assert {line.split()[0] for line in out.splitlines()[1:-1]} == {'vgg16'}


def test_the_record_is_shown_and_other_keys_are_kept(make, images, weights, call):
    dataset = make('vgg16', 'seed')
    (dataset / 'feats.npy.json').write_text(json.dumps({'encoder': 'vgg19', 'preprocessing': 'seed',
                                                        'dtype': 'float16'}))
    arguments = 'check_features', dataset, images, '-i', weights['vgg16'], '--encoder', 'vgg16', '--limit', 2
    status, out, _ = call(*arguments)
    assert status == 0 and '\nrecorded: vgg19, seed\n' in out and 'mean of 2 images' in out
    assert call(*arguments, '--write')[0] == 0
    assert json.loads((dataset / 'feats.npy.json').read_text()) == {'encoder': 'vgg16', 'preprocessing': 'seed',
                                                                    'dtype': 'float16', 'shape': [6, 64]}


def test_grids_are_compared_by_their_mean(make, images, weights, call):
    dataset = make('vgg16', 'seed')
    feats = np.load(dataset / 'feats.npy').astype(np.float32)
    offsets = np.array([-1, 0, 1], np.float32)[:, None]
    np.save(dataset / 'grids.npy', feats[:, None] + offsets)
    (dataset / 'feats.npy').unlink()
    status, out, _ = call('check_features', dataset, images, *both(weights), '--write')
    assert status == 0 and f'vgg16 with the preprocessing seed made {dataset}/grids.npy' in out
    assert json.loads((dataset / 'grids.npy.json').read_text()) == {
        'encoder': 'vgg16', 'preprocessing': 'seed', 'shape': [6, 3, 64]}
    assert Dataset(dataset).provenance == {'encoder': 'vgg16', 'preprocessing': 'seed'}


def test_wrong_calls(make, images, weights, call, tmp_path):
    dataset = make('vgg16', 'seed')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'torn.npz').write_bytes(weights['vgg16'].read_bytes()[:999])
    vgg16 = '-i', weights['vgg16']
    for arguments, reason in (
            ([dataset, tmp_path / 'empty', *vgg16], f'{tmp_path}/empty: holds none of the images of the dataset'),
            ([dataset, tmp_path / 'none', *vgg16], f'{tmp_path}/none: no such folder'),
            ([tmp_path / 'none', images, *vgg16], f'{tmp_path}/none: no such folder'),
            ([dataset, images, '-i', tmp_path / 'none.npz'], f'{tmp_path}/none.npz: no such file; they come from'),
            ([dataset, images, '-i', tmp_path / 'torn.npz'], f'{tmp_path}/torn.npz: not a sound .npz file'),
            ([dataset, images, *vgg16, '--encoder', 'vgg19'], f'{weights["vgg16"]}: has no conv3_4'),
            ([dataset, images, *vgg16, '--encoder', 'vgg16', '--encoder', 'vgg19'],
             '1 files of weights for 2 encoders'),
            ([dataset, images, '--encoder', 'vgg16'], 'no weights for vgg16; they come from'),
            ([dataset, images, *vgg16, '--limit', 0], '--limit 0: must be at least 1')):
        status, out, err = call('check_features', *arguments)
        assert (status, out, err.count('\n')) == (2, '', 1), err
        assert err.startswith(f'check_features.py: {reason}')


@pytest.mark.skipif(not UNSEEN.is_dir(), reason='needs the embedded dataset')
def test_installed_weights_are_tried(call, tmp_path, monkeypatch):
    for name, known in list(ENCODERS.items()):
        monkeypatch.setitem(ENCODERS, name, dataclasses.replace(known, package=None))
    assert call('extract_features', UNSEEN, '-o', tmp_path / 'dataset', '--encoder', 'demo')[0] == 0
    shutil.copytree(UNSEEN, tmp_path / 'elsewhere' / 'deep')
    status, out, err = call('check_features', tmp_path / 'dataset', tmp_path / 'elsewhere')
    assert status == 0 and 'verdict: demo with the preprocessing demo made' in out and 'mean of 16 images' in out
    assert [line.split(';')[0] for line in err.splitlines()] == [
        f'not tried: no weights for {name}' for name in ENCODERS if name != 'demo']


def test_the_encoder_of_weights_is_found_out(weights):
    assert [e.encoder for e in find_extractors([weights['vgg16'], weights['vgg19']])] == ['vgg16', 'vgg19']
    with pytest.raises(InputError, match='has no'):
        list(find_extractors([weights['vgg16']], ['vgg19']))


def test_the_sample_is_seeded_and_spread(tmp_path):
    for i in range(60):
        (tmp_path / f'{i}.png').touch()
    names = [f'{i}.png' for i in range(100)]
    places, paths = sample_images(names, tmp_path, 16)
    assert len(places) == 16 and paths == [str(tmp_path / names[i]) for i in places]
    assert places.tolist() == sorted(set(places.tolist())) and places.max() > 30
    assert sample_images(names, tmp_path, 16)[1] == paths != sample_images(names, tmp_path, 16, seed=1)[1]
    assert sample_images(names, tmp_path, 99)[0].tolist() == list(range(60))
