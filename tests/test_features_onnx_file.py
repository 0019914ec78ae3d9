"""Image networks in ONNX files as encoders: features against NumPy and PyTorch, what is recorded and refused."""
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import onnx
import onnx_networks
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from onnx_networks import grids, network, value
from PIL import Image
from test_models_grids import Attend

from chainer_caption import Captioner, Dataset, InputError, models
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.onnx_names import OnnxName, is_onnx, same_encoder
from chainer_caption.features.onnx_settings import find_preprocessing, read_settings
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.storage import child, children

IMAGES = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)


make = helper.make_node


def constant(name, array):
    return numpy_helper.from_array(np.array(array), name)


def load(path, **options):
    return Extractor.load(str(path), say=lambda line: None, **options)


class ReadHere:
    """Replaces the process of `children.start` by a call in this one, which takes a tenth of the time: no crash and no
    limit is tested with it."""

    def __init__(self, arguments, environment):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(child.Child, 'limit', lambda *_: True)
            child.main(*arguments, stdin=None, stdout=(written := io.BytesIO()))
        self.stdin, self.stdout = io.BytesIO(), io.BytesIO(written.getvalue())

    def kill(self):
        pass

    def wait(self):
        return 0


@pytest.fixture(autouse=True)
def _start(request, monkeypatch):
    if not request.node.get_closest_marker('usefixtures'):
        monkeypatch.setattr(children, 'start', ReadHere)


@pytest.fixture
def real_children():
    """Marks a test that starts real child processes."""


def refusal(path, **options):
    """The message that refuses a file, one printable line without the file's name."""
    with pytest.raises(InputError) as caught:
        load(path, **options)(IMAGES)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 2100
    return message.removeprefix(f'{path}: ')


# ---- Features

@pytest.mark.parametrize('options', [
    {}, {'batch': 1}, {'batch': 2}, {'layout': 'NHWC'}, {'layout': 'NHWC', 'batch': 1},
    {'outputs': ['pooled']}, {'outputs': ['grid']}, {'outputs': ['tokens']}, {'outputs': ['grid', 'features']},
    {'outputs': ['tokens', 'pooled'], 'batch': 3}], ids=str)
def test_vectors(options, tmp_path):
    extractor = load(network(tmp_path / 'a.onnx', **options))
    np.testing.assert_allclose(extractor(IMAGES), grids(IMAGES).mean(axis=1), rtol=1e-4, atol=1e-6)
    assert extractor(list(IMAGES[:1])).dtype == np.float32 and extractor.dim == 5 and extractor.shape == (5,)


@pytest.mark.parametrize('options', [
    {'outputs': ['grid']}, {'outputs': ['tokens'], 'batch': 1}, {'outputs': ['features', 'grid']},
    {'outputs': ['tokens'], 'layout': 'NHWC'}], ids=str)
def test_grids(options, tmp_path):
    extractor = load(network(tmp_path / 'a.onnx', **options), grid=True)
    assert extractor.shape == (16, 5)
    np.testing.assert_allclose(extractor(IMAGES), grids(IMAGES), rtol=1e-4, atol=1e-6)


def test_a_grid_with_the_channels_last(tmp_path):
    # As tf2onnx writes it: images and outputs both have their channels last.
    path = network(tmp_path / 'a.onnx', ['last'], layout='NHWC', declared={'last': ['N', 4, 4, 5]},
                   nodes=[make('Transpose', ['grid'], ['last'], perm=[0, 2, 3, 1])])
    np.testing.assert_allclose(load(path, grid=True)(IMAGES), grids(IMAGES), rtol=1e-4, atol=1e-6)


def test_half_precision(tmp_path):
    extractor = load(network(tmp_path / 'a.onnx', dtype=TensorProto.FLOAT16))
    features = extractor(IMAGES)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, grids(IMAGES).mean(axis=1), rtol=1e-2, atol=1e-3)


def test_a_batch_that_is_not_declared(tmp_path):
    # It declares any number of images, but reshapes as if there were one.
    path = network(tmp_path / 'a.onnx', ['one'], declared={'one': [1, 5]}, weights=[
        constant('to', [1, 5])], nodes=[make('Reshape', ['pooled', 'to'], ['one'])])
    np.testing.assert_allclose(load(path)(IMAGES), grids(IMAGES).mean(axis=1), rtol=1e-4, atol=1e-6)


def test_outputs_are_chosen_by_name(tmp_path):
    path = network(tmp_path / 'a.onnx', ['features', 'twice'], declared={'twice': ['N', 5]}, nodes=[
        make('Add', ['features', 'features'], ['twice'])])
    np.testing.assert_allclose(load(path, output='twice')(IMAGES), 2 * load(path, output='features')(IMAGES))
    assert refusal(path) == 'has several outputs; choose one with --encoder-output (its outputs: features (N x 5), ' \
        'twice (N x 5))'
    assert "no output with features called 'other'" in refusal(path, output='other')
    assert 'is a vector and no grid' in refusal(path, output='twice', grid=True)
    (tmp_path / 'a.json').write_text('{"output": "twice"}')
    assert load(path).encoder.endswith(' output twice')


# ---- Preprocessing

@pytest.mark.parametrize('settings, like', [
    ({'size': 224}, 'torchvision'), ({'size': 224, 'crop_pct': 0.875, 'std': [0.229, 0.224, 0.225]}, 'torchvision'),
    ({'preprocessing': 'lite'}, 'lite'),
    ({'size': 224, 'resize': 'squash', 'interpolation': 'bicubic', 'mean': [127 / 255] * 3, 'std': [128 / 255] * 3},
     'lite'),
    ({'size': [96, 96], 'resize': 'squash', 'pixel_max': 255, 'mean': [127.5] * 3, 'std': [127.5] * 3}, 'demo'),
    ({'size': 299, 'crop_pct': 0.8742, 'mean': [0.5] * 3, 'std': [0.5] * 3}, 'inception')], ids=str)
def test_settings_that_are_those_of_a_known_preprocessing(settings, like, tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (301, 400, 3), np.uint8)
    path = network(tmp_path / 'a.onnx', size=None)
    (tmp_path / 'a.json').write_text(json.dumps(settings))
    extractor = load(path)
    Image.fromarray(rgb).save(tmp_path / 'image.png')
    np.testing.assert_allclose(extractor.prepare(tmp_path / 'image.png'), PREPROCESSINGS[like].prepare(rgb), atol=1e-5)
    # What is recorded is enough to prepare images in the same way.
    again = find_preprocessing(extractor.preprocessing)
    np.testing.assert_array_equal(again.prepare(rgb), extractor.prepare(tmp_path / 'image.png'))
    assert again.name == extractor.preprocessing
    assert (again.name == like) == (like in ('torchvision', *settings.values()))


def test_an_image_that_is_not_square(tmp_path):
    path, rgb = network(tmp_path / 'a.onnx', size=None), np.zeros((50, 200, 3), np.uint8)
    rgb[:, 50:150] = 255                                # the middle of the image
    (tmp_path / 'a.json').write_text('{"size": [4, 8], "crop_pct": 1, "interpolation": "nearest", "channels": "BGR", '
                                     '"pixel_max": 255}')
    Image.fromarray(rgb).save(tmp_path / 'image.png')
    prepared = load(path).prepare(tmp_path / 'image.png')
    assert prepared.shape == (3, 4, 8) and (prepared == 255).all()


def test_what_is_assumed_is_said_once(tmp_path):
    said = []
    extractor = Extractor.load(str(network(tmp_path / 'a.onnx', size=224)), say=said.append)
    assert len(said) == 1 and 'assuming 224 x 224 pixels' in said[0] and extractor.preprocessing == 'torchvision'
    other = load(network(tmp_path / 'b.onnx', size=64))
    assert other.preprocessing.startswith('size=64x64 resize=crop crop_pct=0.875 ')
    Extractor.load(str(tmp_path / 'a.onnx'), 'karpathy', say=said.append)
    assert len(said) == 1


@pytest.mark.parametrize('settings, message', [
    ('{"size": 0}', "'size' should be a whole number of pixels"), ('{"sise": 8}', "did you mean 'size'"),
    ('[8]', 'object'), ('{"layout": "HWC"}', "'NCHW' or 'NHWC'"),
    ('{"mean": [1, 2]}', "'mean' should be a list of three numbers"), ('{"std": [0, 1, 1]}', "'std' should be"),
    ('{"resize": "pad"}', "'crop' or 'squash'"), ('{"crop_pct": true}', 'from 0.1 to 1'),
    ('{"mean": [NaN, 0, 0]}', 'mean'),
    ('{"preprocessing": "lite", "size": 8}', 'leave one of them out'), ('{', 'JSON')], ids=str)
def test_settings_that_are_wrong(settings, message, tmp_path):
    (tmp_path / 'a.json').write_text(settings)
    with pytest.raises(InputError, match=re.escape(message)):
        read_settings(tmp_path / 'a.onnx')


@pytest.mark.parametrize('name', ['', 'unknown', 'size=8', 'size=8x8 resize=pad', 'size=x resize=crop',
                                  'size=8x8 resize=crop output=a', 'size=8x8 resize=crop mean=1,2'])
def test_recorded_preprocessings_that_are_wrong(name):
    with pytest.raises(InputError, match='preprocessing'):
        find_preprocessing(name)


def test_sizes(tmp_path):
    assert 'takes images of any size; say which in' in refusal(network(tmp_path / 'any.onnx', size=None))
    assert 'takes images of 8 x 8 pixels, not 224 x 224' in refusal(network(tmp_path / 'a.onnx'), preprocessing='seed')
    assert 'own size' in refusal(tmp_path / 'a.onnx', preprocessing='whole')
    (tmp_path / 'any.json').write_text('{"size": 8}')
    np.testing.assert_allclose(load(tmp_path / 'any.onnx')(IMAGES), grids(IMAGES).mean(axis=1), rtol=1e-4, atol=1e-6)


# ---- Names

def test_names():
    name = OnnxName('a (b)', '0123456789abcdef', '/pool/out put')
    assert str(name) == 'onnx:a (b) (0123456789ab) output /pool/out put'
    assert OnnxName.parse(str(name)) == name._replace(digest='0123456789ab') and OnnxName.parse('onnx:a') is None
    assert same_encoder(str(name), str(name._replace(file='other'))) and same_encoder('demo', 'demo')
    assert not same_encoder(str(name), str(name._replace(output='other'))) and not same_encoder('demo', str(name))
    assert is_onnx('A.ONNX') and is_onnx(str(name)) and not is_onnx('vgg19') and not is_onnx(None)


# ---- Files that are refused

def external(path, location, **changes):
    """A network whose kernel is said to lie in another file."""
    model = onnx.load(network(path))
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == 'kernel')
    data = kernel.raw_data
    external_data_helper.set_external_data(kernel, location, **{'offset': 0, 'length': len(data), **changes})
    kernel.ClearField('raw_data')
    path.write_bytes(model.SerializeToString())
    return data


def test_external_data_in_the_folder_is_read_and_a_part_of_the_digest(tmp_path):
    path = tmp_path / 'a.onnx'
    data = external(path, 'a.data')
    assert "'a.data', which is missing" in refusal(path)
    (tmp_path / 'a.data').write_bytes(data[:-4])
    assert 'cut short' in refusal(path)
    (tmp_path / 'a.data').write_bytes(data)
    extractor = load(path)
    np.testing.assert_allclose(extractor(IMAGES), grids(IMAGES).mean(axis=1), rtol=1e-4, atol=1e-6)
    (tmp_path / 'a.data').write_bytes(data[4:] + data[:4])
    assert load(path).encoder != extractor.encoder


@pytest.mark.parametrize('where', ['../outside.data', '/etc/passwd', 'link', '', 'folder/../../outside.data'])
def test_external_data_elsewhere(where, tmp_path):
    folder = tmp_path / 'inside'
    (folder / 'folder').mkdir(parents=True)
    data = external(folder / 'a.onnx', where)
    (tmp_path / 'outside.data').write_bytes(data)
    os.symlink(tmp_path / 'outside.data', folder / 'link')
    assert 'outside its folder' in refusal(folder / 'a.onnx')


def adding(output, *nodes, shape=('N', 5), **options):
    """Options of `network` that add nodes and their output."""
    return {'outputs': [output], 'declared': {output: list(shape)}, 'nodes': nodes, **options}



# Options of `network`, and what the message contains.
@pytest.mark.parametrize('options, message', [
    (adding('own', make('Twice', ['features'], ['own'], domain='mine'), opsets=[helper.make_opsetid('mine', 1)]),
     "uses the operator 'Twice' of the domain 'mine'"),
    (adding('own', make('Nonsense', ['features'], ['own'])), 'not a sound ONNX file, or one cut short'),
    ({'declared': {'features': ['N', 7]}}, "'features' has the shape (1, 5), not ('?', 7) as it declares"),
    (adding('own', make('Shape', ['features'], ['to']), make('Reshape', ['features', 'to'], ['own']), shape=['N', 7]),
     "'own' has the shape (1, 5), not ('?', 7) as it declares"),
    ({'layout': 'NHWC', 'size': 3, 'batch': 10 ** 9}, 'takes 1000000000 images'),
    ({'size': 5000}, 'takes images of 5000 x 5000 pixels'),
    (adding('own', make('ArgMax', ['features'], ['own'], axis=1)), 'ONNX Runtime cannot load it'),
    (adding('own', make('Div', ['features', 'zero'], ['own']), weights=[constant('zero', np.float32(0))]),
     "'own' is not finite on a black image"),
    (adding('own', make('Exp', ['features'], ['big']), make('Exp', ['big'], ['own'])), 'is not finite on an image'),
    (adding('own', make('Exp', ['tokens'], ['big']), make('Mul', ['big', 'huge'], ['own']), shape=['N', 16, 5],
            weights=[constant('huge', np.float32(1e38))]), 'is not finite on an image'),
    (adding('own', make('ReduceSum', ['features', 'axis'], ['own'], keepdims=0), shape=['N'], weights=[
        constant('axis', [1])]), 'has no output with features (its outputs: own)')], ids=lambda value: str(value)[-60:])
def test_networks_that_are_refused(options, message, tmp_path):
    path = network(tmp_path / 'a.onnx', **options)
    with pytest.raises(InputError, match=re.escape(message)):
        load(path)(IMAGES * 1000)


@pytest.mark.usefixtures('real_children')
def test_limits_and_crashes_of_the_process_that_reads(tmp_path, monkeypatch):
    # Seven gigabytes, which many machines have, but no network of this size needs.
    path = network(tmp_path / 'a.onnx', **adding('own', make('ConstantOfShape', ['many'], ['zeros']), make(
        'ReduceSum', ['zeros', 'axis'], ['sum']), make('Add', ['features', 'sum'], ['own']), weights=[
            constant('many', [7 * 2 ** 28, 1]), constant('axis', [0])]))
    assert 'fails on a black image' in refusal(path)
    np.testing.assert_allclose(load(network(path))(IMAGES), grids(IMAGES).mean(axis=1), rtol=1e-4, atol=1e-6)
    for program, reason in (('import os; os.abort()', 'makes its reader fail'),
                            ('import os, signal; os.kill(os.getpid(), signal.SIGXCPU)', 'takes too long to read')):
        (tmp_path / 'child.py').write_text(program)
        monkeypatch.setattr(children, '_CHILD', tmp_path / 'child.py')
        assert refusal(path).startswith(f'not a sound ONNX file: {reason}')


def test_inputs_that_are_no_images(tmp_path):
    for inputs in ([value('images', ['N', 1, 8, 8])], [value('images', ['N', 3, 8])], [],
                   [value('images', ['N', 3, 8, 8]), value('words', ['N', 5])],
                   [value('images', ['N', 3, 8, 8], TensorProto.UINT8)]):
        model = onnx.load(network(tmp_path / 'a.onnx'))
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.graph.node[0].input[0] = 'kernel' if not inputs else 'images'
        onnx.save(model, tmp_path / 'a.onnx')
        assert re.search('an encoder has one input|no batch of colour|cannot load it', refusal(tmp_path / 'a.onnx'))


def test_files_that_are_none(tmp_path):
    good = network(tmp_path / 'good.onnx').read_bytes()
    for content in (b'', b'no network', good[:-100], good[:50], b'PK\3\4' + bytes(100)):
        (tmp_path / 'a.onnx').write_bytes(content)
        assert refusal(tmp_path / 'a.onnx').startswith('not a sound ONNX file')
    assert refusal(tmp_path / 'missing.onnx') == 'no such file'
    os.mkfifo(tmp_path / 'pipe.onnx')
    assert 'not a regular file' in refusal(tmp_path / 'pipe.onnx')


# ---- The command line

@pytest.fixture
def folder(tmp_path):
    """Images of three colours with captions, and a network `net.onnx`."""
    rng, rows = np.random.default_rng(0), ['filename,caption']
    (tmp_path / 'images').mkdir()
    for i in range(30):
        name, colour = [('red', (250, 20, 20)), ('green', (20, 250, 20)), ('blue', (20, 20, 250))][i % 3]
        pixels = np.clip(rng.normal(colour, 10, (12, 12, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / 'images' / f'{i:02}.png')
        rows.append(f'{i:02}.png,a {name} square')
    (tmp_path / 'captions.csv').write_text('\n'.join(rows))
    network(tmp_path / 'net.onnx', ['features', 'tokens'])
    (tmp_path / 'net.json').write_text('{"size": 8, "resize": "squash", "mean": [0, 0, 0], "std": [1, 1, 1]}')
    return tmp_path


def test_from_images_to_captions(folder, call, monkeypatch):
    monkeypatch.chdir(folder)
    assert call('extract-features', 'images', '--encoder', 'net.onnx', '-o', 'dataset', '--captions', 'captions.csv',
                '--quiet') == (0, '', '')
    record = json.loads(pathlib.Path('dataset/feats.npy.json').read_text())
    assert re.fullmatch(r'onnx:net \([0-9a-f]{12}\) output features', record['encoder'])
    assert record['preprocessing'] == ('size=8x8 resize=squash interpolation=bilinear channels=RGB pixel_max=1 '
                                       'mean=0,0,0 std=1,1,1')
    assert call('train', 'dataset', '-o', 'model', '--min-count', 1, '--epochs', 8, '--hidden', 32, '--batch-size', 2,
                '--learning-rate', 0.02, '--dropout', 0, '--score-every', 0, '--quiet')[0] == 0
    # The settings are in the model: the file may be renamed and moved, without its JSON.
    (folder / 'elsewhere').mkdir()
    os.rename('net.onnx', 'elsewhere/other.onnx')
    for option in '--encoder', '-i':
        status, out, err = call('generate', '-m', 'model', option, 'elsewhere/other.onnx', 'images/00.png',
                                'images/01.png', 'images/02.png', '--top', 1)
        assert (status, err) == (0, '') and out.split('\n')[1::2] == ['a red square', 'a green square', 'a blue square']
    captions = list(Captioner.load('model', encoder='elsewhere/other.onnx').caption('images/04.png'))
    assert captions[0].captions[0].text == 'a green square'
    # Without it, with another, or for another model.
    status, _, err = call('generate', '-m', 'model', 'images/00.png')
    assert status == 2 and 'name the file with --encoder FILE.onnx' in err and err.count('\n') == 1
    network('elsewhere/third.onnx', ['features'])
    status, _, err = call('generate', '-m', 'model', '--encoder', 'elsewhere/third.onnx', 'images/00.png')
    assert status == 2 and 'not the file that the features were made with' in err and err.count('\n') == 1
    status, _, err = call('generate', '--encoder', 'elsewhere/third.onnx', 'images/00.png', '--quiet')
    assert status == 2 and 'was trained on features of the encoder efficientnet_lite0' in err
    # The same features again by the model's record; fine-tuning is refused.
    assert call('extract-features', 'images', '-m', 'model', '--encoder', 'elsewhere/other.onnx', '-o', 'again')[0] == 0
    np.testing.assert_array_equal(np.load('again/feats.npy'), np.load('dataset/feats.npy'))
    status, _, err = call('train', 'dataset', '-o', 'fine', '-m', 'model', '--finetune', 'all', '--images', 'images')
    assert status == 2 and 'is an ONNX file, which can be used as it is, but not fine-tuned' in err


def test_grids_of_the_command_line(folder, call, monkeypatch):
    monkeypatch.chdir(folder)
    assert call('extract-features', 'images', '--encoder', 'net.onnx', '--grid', '-o', 'dataset', '--captions',
                'captions.csv')[0] == 0
    dataset, stored = Dataset('dataset'), np.load('dataset/grids.npy')
    assert dataset.features is None and stored.shape == (30, 16, 5) and stored.dtype == np.float16
    # An architecture that reads vectors reads their mean.
    np.testing.assert_allclose(dataset.inputs('vectors'), stored.astype(np.float32).mean(axis=1), atol=1e-3)
    extractor = load('net.onnx')
    vectors = extractor([extractor.prepare(f'images/{i:02}.png') for i in range(30)])
    np.testing.assert_allclose(dataset.inputs('vectors'), vectors, atol=2e-3)
    # A model that reads grids captions images, as it captions the stored grids.
    monkeypatch.setitem(models.ARCHITECTURES, 'attend', Attend)
    assert call('train', 'dataset', '-o', 'model', '--architecture', 'attend', '--min-count', 1, '--epochs', 1,
                '--hidden', 4, '--quiet')[0] == 0
    captioner = Captioner.load('model', encoder='net.onnx')
    found = [result.captions[0] for result in captioner.caption('images')]
    same = captioner.caption_features(stored[:30].astype(np.float32))
    np.testing.assert_allclose([one.log_prob for one in found], [best[0].log_prob for best in same], atol=1e-2)
    status, _, err = call('extract-features', 'images', '--encoder', 'net.onnx', '-o', 'dataset')
    assert status == 2 and 'grids.npy that this command did not write' in err
    # 65504 is the largest number of float16.
    pathlib.Path('net.json').write_text('{"size": 8, "std": [1e-4, 1e-4, 1e-4]}')
    network('net.onnx', ['big'], declared={'big': ['N', 16, 5]}, weights=[constant('k', np.float32(100))], nodes=[
        make('Mul', ['tokens', 'k'], ['big'])])
    status, _, err = call('extract-features', 'images', '--encoder', 'net.onnx', '--grid', '-o', 'large', '--quiet')
    assert status == 2 and '00.png: has features that are no numbers in float16' in err and err.count('\n') == 1
    status, _, err = call('extract-features', 'images', '--encoder', 'demo', '--grid', '-o', 'other')
    assert status == 2 and 'gives vectors' in err and not os.path.exists('other')


def test_a_stopped_extraction_goes_on_with_the_same_file_only(folder, call, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = 'extract-features', 'images', '--encoder', 'net.onnx', '--encoder-output', 'features', '-o', 'dataset'
    assert call('extract-features', *arguments[1:-1], 'expected')[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr(os, 'fsync', stop_at_the_fifth(os.fsync))
        with pytest.raises(KeyboardInterrupt):
            from chainer_caption.data.building import extract_features
            extract_features('images', 'dataset', load('net.onnx', output='features'))
    assert os.path.exists('dataset/feats.npy.part.jsonl') and not os.path.exists('dataset/feats.npy')
    original = pathlib.Path('net.onnx').read_bytes()
    onnx_networks.network('net.onnx', ['features'])
    status, _, err = call(*arguments)
    assert status == 2 and 'begun with encoder onnx:net' in err and err.count('\n') == 1
    pathlib.Path('net.onnx').write_bytes(original)
    assert call(*arguments)[0] == 0
    assert pathlib.Path('dataset/feats.npy').read_bytes() == pathlib.Path('expected/feats.npy').read_bytes()


def stop_at_the_fifth(function):
    calls = []

    def stopping(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return function(*args)
    return stopping


def test_commands_that_name_an_encoder(folder, call, monkeypatch):
    monkeypatch.chdir(folder)
    assert call('extract-features', 'images', '-i', 'net.onnx', '-o', 'dataset', '--captions', 'captions.csv')[0] == 0
    record = json.loads(pathlib.Path('dataset/feats.npy.json').read_text())
    os.unlink('dataset/feats.npy.json')
    # A dataset that records nothing is declared, or identified.
    small = '--epochs', 0, '--min-count', 1, '--hidden', 4, '--quiet'
    assert call('train', 'dataset', '-o', 'model', '--encoder', 'net.onnx', *small)[0] == 0
    features = json.loads(pathlib.Path('model/config.json').read_text())['features']
    assert features == {key: record[key] for key in ('encoder', 'preprocessing')}
    status, out, _ = call('check-features', 'dataset', 'images', '--encoder', 'net.onnx', '--encoder', 'demo',
                          '--write')
    assert status == 0 and f'verdict: {record["encoder"]} with the preprocessing {record["preprocessing"]}' in out
    assert json.loads(pathlib.Path('dataset/feats.npy.json').read_text())['encoder'] == record['encoder']
    os.rename('net.onnx', 'renamed.onnx')
    os.rename('net.json', 'renamed.json')
    assert call('train', 'dataset', '-o', 'model2', '--encoder', 'renamed.onnx', *small)[0] == 0
    status, out, _ = call('benchmark', 'extract', '--encoder', 'renamed.onnx', '--batch-size', 2, '--repeats', 1,
                          '--json')
    assert status == 0 and json.loads(out)['images_per_s'] > 0
    status, _, err = call('generate', '--encoder', 'nonsense', 'images')
    assert status == 2 and 'FILE.onnx' in err
    status, _, err = call('train', 'dataset', '-o', 'model3', '--encoder', 'captions.onnx', *small)
    assert status == 2 and err.strip().endswith('captions.onnx: no such file')


# ---- Other programs

@pytest.mark.filterwarnings('ignore')                   # PyTorch's own
def test_a_network_of_pytorch(tmp_path):
    torch = pytest.importorskip('torch')
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, 2, 1), torch.nn.BatchNorm2d(6), torch.nn.SiLU(),
                              torch.nn.Conv2d(6, 8, 3, 2, 1, groups=2), torch.nn.AdaptiveAvgPool2d(1),
                              torch.nn.Flatten(), torch.nn.LayerNorm(8)).eval()
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32))
    torch.onnx.export(net, (images,), str(tmp_path / 'a.onnx'), dynamic_shapes=({0: torch.export.Dim('batch')},),
                      dynamo=True, external_data=True)
    extractor = load(tmp_path / 'a.onnx')
    with torch.no_grad():
        expected = net(images).numpy()
    np.testing.assert_allclose(extractor(images.numpy()), expected, rtol=1e-4, atol=1e-5)
    torch.onnx.export(net.half(), (images.half(),), str(tmp_path / 'half.onnx'), dynamo=True)
    np.testing.assert_allclose(load(tmp_path / 'half.onnx')(images.numpy()), expected, rtol=0.02, atol=0.02)


def test_nothing_but_the_line_is_written(tmp_path, package_environment):
    # ONNX Runtime's and protobuf's own messages are not shown.
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (9, 9)).save(tmp_path / 'images' / 'a.png')
    network(tmp_path / 'bad.onnx', declared={'features': ['N', 7]})
    command = [sys.executable, '-m', 'chainer_caption', 'extract-features', 'images', '-o', 'dataset', '--encoder']
    done = subprocess.run([*command, 'bad.onnx'], cwd=tmp_path, env=package_environment, capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1), done.stderr
    assert 'bad.onnx: its output' in done.stderr
