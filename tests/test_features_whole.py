"""Images at their own size through Caffe's ResNet-101, as in ruotianluo/ImageCaptioning.pytorch."""
import dataclasses
import json
import os

import chainer
import numpy as np
import pytest
from checkpoint_files import FullyConnected
from PIL import Image
from published_encoders import ChainerOperations, TorchOperations, random_state, resnet101
from torch_writer import write_state_dict

from chainer_caption.errors import InputError
from chainer_caption.features.check import find_extractors
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.encoders.resnet import TorchResNet101
from chainer_caption.features.encoders.vgg import VGG16
from chainer_caption.features.extractor import Extractor
from chainer_caption.models.checkpoints import read_checkpoint

WORDS = ['a', 'zebra', 'is', 'there', 'of', 'the']


@pytest.fixture(scope='module')
def state():
    state = random_state(TorchResNet101())
    return {**state, 'fc.weight': np.zeros((1000, 2048), np.float32), 'fc.bias': np.zeros(1000, np.float32)}


@pytest.fixture(scope='module')
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'resnet101.pth'
    write_state_dict(path, state, 'old')
    return path


@pytest.fixture(scope='module')
def images(state, tmp_path_factory):
    """A folder with images of unequal sizes, one grey and one too small; the others as they are prepared, and their
    features, by name."""
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (40, 33), np.uint8), rng.integers(0, 256, (21, 58, 3), np.uint8)
    for name, image in (('a.png', grey), ('b.png', np.zeros((2, 50), np.uint8)), ('c.png', colour)):
        Image.fromarray(image).save(folder / name)
    prepared = {name: ((image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None].astype(
        np.float32) for name, image in (('a.png', grey[:, :, None].repeat(3, axis=2)), ('c.png', colour))}
    with chainer.no_backprop_mode():
        return folder, prepared, {name: resnet101(ChainerOperations(state, 1e-5), x)[0] for name, x in prepared.items()}


def test_pytorch_computes_the_same(state, images):
    pytest.importorskip('torch')
    _, prepared, features = images
    for name, x in prepared.items():
        got, = resnet101(TorchOperations(state, 1e-5), x)
        np.testing.assert_allclose(got, features[name], rtol=0, atol=1e-5 * got.max())


def test_a_dataset_of_images_of_unequal_sizes(weights, images, call, tmp_path):
    folder, _, features = images
    status, _, err = call('extract_features', folder, '--encoder', 'resnet101', '--preprocessing', 'whole', '-i',
                          weights,
                          '-o', tmp_path)
    assert status == 1 and 'b.png: 50 x 2 pixels are too few for features of its own size\n' in err
    record = json.loads((tmp_path / 'feats.npy.json').read_text())
    assert (record['encoder'], record['preprocessing'], list(record['failed'])) == ('resnet101', 'whole', ['b.png'])
    for row, name in ((0, 'a.png'), (2, 'c.png')):
        assert features[name].std() > 0.01
        np.testing.assert_allclose(np.load(tmp_path / 'feats.npy')[row], features[name], rtol=0,
                                   atol=1e-5 * features[name].max())


def test_captions_equal_the_originals(weights, images, call, tmp_path):
    folder, _, features = images
    original = FullyConnected(WORDS, features=2048, seed=7)
    original.tensors['img_embed.weight'] *= 0.001       # so that gates do not saturate
    read_checkpoint(original.write(tmp_path)).save(tmp_path / 'model')
    status, out, _ = call('generate', '-m', tmp_path / 'model', '-i', weights, folder, '--format', 'jsonl',
                          '--beam-width', '1', '--max-length', '9', '--allow-unk')
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1 and ['error' in row for row in rows] == [False, True, False]
    for row, feature in zip(rows[::2], features.values(), strict=True):
        words, log_probs = original.greedy(feature, 9)
        caption, = row['captions']
        assert caption['tokens'] == [original.words[word].replace('UNK', '<UNK>') for word in words if word]
        assert caption['log_prob'] == pytest.approx(sum(log_probs), abs=1e-3)


def test_combinations_that_do_not_fit_are_refused(weights, monkeypatch, tmp_path):
    with pytest.raises(InputError, match='leaves images at their own size, which only resnet101 takes; vgg16 takes'):
        Extractor('vgg16', 'whole', VGG16(width=1, units=8))
    with pytest.raises(InputError, match='preprocessing karpathy gives BGR, and these weights of resnet101 want RGB'):
        Extractor.load('resnet101', 'karpathy', weights)
    # The format decides, as for any other link.
    vgg = VGG16(width=1, units=8)
    monkeypatch.setitem(ENCODERS, 'resnet101', dataclasses.replace(ENCODERS['resnet101'], link=lambda: vgg,
                                                                   compiled=True))
    np.savez(tmp_path / 'a.npz', **{name[1:]: param.array for name, param in vgg.namedparams()})
    with pytest.raises(InputError, match='preprocessing whole gives RGB, and these weights of resnet101 want BGR'):
        Extractor.load('resnet101', 'whole', tmp_path / 'a.npz')


def test_a_file_that_fits_two_encoders_is_identified_by_its_name(weights):
    other = weights.with_name(ENCODERS['resnet101_torchvision'].weights[0])
    os.link(weights, other)
    assert [extractor.encoder for extractor in find_extractors([weights, other])] == [
        'resnet101', 'resnet101_torchvision']
