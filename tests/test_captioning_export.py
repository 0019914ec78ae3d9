"""Exported models: their ONNX graphs against Chainer's decoders, and `caption.py` without Chainer against Captioner."""
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import chainer.links as L
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from scipy.special import log_softmax

from chainer_caption import Bundle, Captioner, InputError, Vocabulary
from chainer_caption.captioning.captioner import PRETRAINED
from chainer_caption.captioning.export import export
from chainer_caption.features.extractor import load_encoder
from chainer_caption.features.images import open_image
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.models import ARCHITECTURES, Architecture, EncoderDecoder, Imported, Merge, ShowAndTell
from chainer_caption.models.onnx_graph import decoder_graphs

WORDS, DIM = 30, 4096
TEMPLATES = pathlib.Path(PRETRAINED).with_name('exported')
FILES = {'encoder.onnx', 'decoder_start.onnx', 'decoder_step.onnx', 'vocabulary.json', 'preprocessing.json',
         'config.json', 'caption.py'}


def randomized(model, seed=0, scale=1.0):
    """The model with random weights, so that captions differ from image to image."""
    rng = np.random.default_rng(seed)
    for name, param in sorted(model.namedparams()):
        large = scale / np.sqrt(DIM) if name == '/image_vec/W' else scale
        param.array[...] = rng.normal(0, large, param.shape)
    return model


def models():
    yield 'show_and_tell', ShowAndTell(DIM, WORDS, 8)
    yield 'merge', Merge(DIM, WORDS, 8)
    yield 'encoder_decoder', EncoderDecoder(DIM, WORDS, 8, max_positions=6)
    yield 'lstm', Imported(DIM, WORDS, 8, 5, 'lstm')
    yield 'lstm_linear_output', Imported(DIM, WORDS, 8, 5, 'lstm_linear_output', ['<S>', '<UNK>'])
    yield 'lstm_maxout', Imported(DIM, WORDS, 8, 5, 'lstm_maxout', ['<S>'])


MODELS = dict(models())
of_each_model = pytest.mark.parametrize('name', MODELS)


def save(model, folder, provenance=('demo', 'demo'), **more):
    words = [f'w{i:02}' for i in range(model.vocabulary_size - 3)]
    provenance = provenance and dict(zip(('encoder', 'preprocessing'), provenance, strict=True))
    vocabulary = Vocabulary(['<S>', '</S>', '<UNK>', *words], [1] * model.vocabulary_size)
    Bundle(model, vocabulary, provenance, **more).save(folder)
    return folder


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Images of many kinds: of other sizes, turned, grey, transparent, with a palette."""
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 4), np.uint8)).resize((210, 150), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse.convert('RGB').save(folder / 'turned.jpg', exif=exif, quality=95)
    coarse.save(folder / 'transparent.png')
    coarse.convert('L').save(folder / 'grey.png')
    coarse.convert('RGB').quantize(16).save(folder / 'palette.png')
    Image.fromarray(np.asarray(coarse.convert('L'), np.uint16) * 257).save(folder / 'deep.png')
    coarse.convert('RGB').resize((31, 60)).save(folder / 'small.png')
    return sorted(folder.iterdir())


@of_each_model
@pytest.mark.parametrize('batch', [1, 3])
def test_the_graphs_compute_what_the_decoder_does(name, batch):
    model, rng = randomized(MODELS[name]), np.random.default_rng(batch)
    start, step = (onnxruntime.InferenceSession(graph.SerializeToString()) for graph in decoder_graphs(model))
    features, decoder = rng.random((batch, DIM), np.float32), model.decoder()
    expected, state = decoder.start(features), start.run(None, {'features': features})
    parents, tokens = np.arange(batch), np.zeros(batch, int)
    for _ in range(9):                                  # more than encoder_decoder's places
        expected, scores = decoder.step(expected, parents, tokens)
        *state, log_probs = step.run(None, {**{f'state{i}': array for i, array in enumerate(state)},
                                            'parents': parents, 'tokens': tokens})
        np.testing.assert_allclose(log_probs, log_softmax(scores + decoder.bias, axis=1), rtol=1e-5, atol=2e-5)
        count = rng.integers(1, 6)
        parents, tokens = np.sort(rng.integers(0, len(parents), count)), rng.integers(0, WORDS, count)


def run_program(folder, *arguments):
    """Runs `caption.py` where Chainer and this package cannot be imported: (status, stdout, stderr)."""
    blocked = folder / 'blocked'
    for package in 'chainer', 'chainer_caption', 'numba', 'scipy', 'onnx':
        (blocked / package).mkdir(parents=True, exist_ok=True)
        (blocked / package / '__init__.py').write_text('raise ImportError("blocked")')
    done = subprocess.run([sys.executable, folder / 'caption.py', *arguments], capture_output=True, text=True,
                          check=False, env={**os.environ, 'PYTHONPATH': str(blocked)})
    return done.returncode, done.stdout, done.stderr


def expected_text(captioner, paths):
    return ''.join(f'# {result.path}\n' + ''.join(f'{caption.text}\n' for caption in result.captions)
                   for result in captioner.caption_files(paths))


@pytest.mark.parametrize(('name', 'search'), [*((name, {}) for name in MODELS),
                                              ('merge', {'width': 3, 'length_normalization': 0.7})])
def test_the_program_captions_as_captioner(name, search, images, tmp_path, call):
    model = save(randomized(MODELS[name], scale=2.0), tmp_path / 'model', search=search)
    assert call('export', model, '-o', tmp_path / 'out')[0] == 0
    assert {path.name for path in (tmp_path / 'out').iterdir()} == FILES
    expected = expected_text(Captioner.load(model), images)
    assert len({*expected.splitlines()}) > len(images) + 5          # captions that differ
    assert run_program(tmp_path / 'out', *images) == (0, expected, '')


def test_captions_without_an_end_are_cut_and_characters_are_joined(images, tmp_path, call):
    model = randomized(ShowAndTell(DIM, WORDS, 8), scale=2.0)
    model.out_word.b.array[1] = -30
    save(model, tmp_path / 'model', tokenizer='characters')
    assert call('export', tmp_path / 'model', '-o', tmp_path / 'out')[0] == 0
    captioner = Captioner.load(tmp_path / 'model')
    assert not any(caption.finished for result in captioner.caption(images[:2]) for caption in result.captions)
    assert run_program(tmp_path / 'out', *images[:2]) == (0, expected_text(captioner, images[:2]), '')


def test_one_bad_image_among_good_ones(images, tmp_path, call):
    model = save(randomized(Merge(DIM, WORDS, 8)), tmp_path / 'model')
    call('export', model, '-o', tmp_path / 'out')
    (tmp_path / 'bad.jpg').write_bytes(images[-1].read_bytes()[:100])
    status, out, err = run_program(tmp_path / 'out', tmp_path / 'bad.jpg', images[0])
    assert status == 1 and out == expected_text(Captioner.load(model), images[:1])
    assert err.startswith(f'{tmp_path}/bad.jpg: ') and err.count('\n') == 1


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    """The module `caption.py` of an export."""
    folder = save(randomized(Merge(DIM, WORDS, 8)), tmp_path_factory.mktemp('program') / 'model')
    export(Captioner.load(folder), load_encoder('demo')[0], folder.with_name('out'))
    spec = importlib.util.spec_from_file_location('exported_caption', folder.with_name('out') / 'caption.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', sorted(PREPROCESSINGS))
def test_the_program_prepares_images_as_each_preprocessing_does(name, images, program, monkeypatch):
    monkeypatch.syspath_prepend(TEMPLATES)              # imresize.py
    monkeypatch.setattr(program, 'RECIPE', PREPROCESSINGS[name].to_json())
    for path in images:
        with open_image(path) as image:
            expected = PREPROCESSINGS[name].prepare(image)
        np.testing.assert_allclose(program.prepare(path), expected, atol=0.002 if name == 'karpathy' else 0)


class Sum(Architecture):
    """An architecture of one's own: the image and all words so far, added."""

    def __init__(self, feature_size, vocabulary_size, hidden=8, dropout=0.0):
        super().__init__()
        with self.init_scope():
            self.word_vec = L.EmbedID(vocabulary_size, hidden)
            self.image_vec = L.Linear(feature_size, hidden)
            self.out_word = L.Linear(hidden, vocabulary_size)

    def decoder(self):
        return SumDecoder(self)

    def onnx_start(self, graph, features):
        return [graph.add('Gemm', features, self.image_vec.W.array, self.image_vec.b.array, transB=1)]

    def onnx_step(self, graph, state, tokens):
        total = graph.add('Add', state[0], graph.add('Gather', self.word_vec.W.array, tokens))
        return [total], graph.add('Gemm', total, self.out_word.W.array, self.out_word.b.array, transB=1)


class SumDecoder:
    def __init__(self, model):
        self.model, self.device, self.bias = model, model.device, model.out_word.b.array

    def start(self, features):
        return features @ self.model.image_vec.W.array.T + self.model.image_vec.b.array

    def step(self, state, parents, tokens):
        total = state[parents] + self.model.word_vec.W.array[tokens]
        return total, total @ self.model.out_word.W.array.T


@pytest.fixture
def own(monkeypatch):
    """Registers an architecture for this test."""
    def register(architecture):
        monkeypatch.setitem(ARCHITECTURES, 'own', architecture)
        monkeypatch.setattr(architecture, 'architecture', 'own', raising=False)
        return architecture
    return register


def test_an_own_architecture_is_exported_by_its_methods(own, images, tmp_path, call):
    model = save(randomized(own(Sum)(DIM, WORDS)), tmp_path / 'model')
    assert call('export', model, '-o', tmp_path / 'out')[0] == 0
    assert run_program(tmp_path / 'out', *images) == (0, expected_text(Captioner.load(model), images), '')


def test_architectures_without_a_right_onnx_form_are_refused(own, tmp_path, refused):
    class Wrong(Sum):
        def onnx_step(self, graph, state, tokens):
            return state, super().onnx_step(graph, state, tokens)[1]

    class Other(ShowAndTell):                           # not the decoder that is known of its base
        def decoder(self, record=False):
            return SumDecoder(self)

    for architecture, why in (Wrong, 'differs from its decoder'), (Other, 'has no ONNX form; give it the methods'):
        model = save(randomized(own(architecture)(DIM, WORDS, 8)), tmp_path / architecture.__name__)
        assert why in refused('export', model, '-o', tmp_path / 'out')
        assert not (tmp_path / 'out').exists()


def test_a_model_that_reads_grids_is_refused(own, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(own(Sum), 'reads', 'grids')
    with pytest.raises(InputError, match='reads grids; only models that read vectors'):
        decoder_graphs(Sum(DIM, WORDS))
    model = save(Sum(DIM, WORDS), tmp_path / 'model')
    assert 'the model reads grids' in refused('export', model, '-o', tmp_path / 'out')


# ---- The files

def test_a_fine_tuned_encoder_is_the_one_exported(images, tmp_path, call):
    encoder = load_encoder('demo')[0]
    encoder.fc8.W.array[:] = encoder.fc8.W.array[::-1]
    provenance = 'fine-tuned from demo', 'demo'
    model = save(randomized(Merge(DIM, WORDS, 8)), tmp_path / 'model', provenance, encoder=encoder)
    assert call('export', model, '-o', tmp_path / 'out')[0] == 0
    captioner = Captioner.load(model)
    graph = onnxruntime.InferenceSession(tmp_path / 'out' / 'encoder.onnx')
    prepared = np.array([captioner.extractor.prepare(path) for path in images])
    features, = graph.run(None, {'images': prepared})
    np.testing.assert_allclose(features, captioner.extractor(prepared), atol=1e-4)
    assert run_program(tmp_path / 'out', *images) == (0, expected_text(captioner, images), '')


def test_the_files_say_where_they_come_from(tmp_path, call):
    model = save(randomized(Merge(DIM, WORDS, 8)), tmp_path / 'model', search={'width': 7})
    (model / 'LICENSE').write_text('Private use alone.\n')
    out = tmp_path / 'out'
    assert call('export', model, '-o', out, '--precision', 'float16')[0] == 0
    assert (out / 'LICENSE').read_text() == 'Private use alone.\n'
    config = json.loads((out / 'config.json').read_text())
    assert config['search'] == {'width': 7, 'top': 5, 'length_normalization': 0.0, 'max_length': 60}
    assert config['licence'] == 'LICENSE' and config['precision'] == 'float16'
    for name in 'encoder', 'decoder_start', 'decoder_step':
        graph = onnx.load(out / f'{name}.onnx')
        onnx.checker.check_model(graph, full_check=True)
        facts = {prop.key: prop.value for prop in graph.metadata_props}
        assert graph.opset_import[0].version >= 17 and facts['precision'] == 'float16'
        assert facts.items() >= ({'encoder': 'demo', 'preprocessing': 'demo'} if name == 'encoder' else
                                 {'model': 'merge', 'licence': 'Private use alone.\n'}).items()
    assert json.loads((out / 'vocabulary.json').read_text()) == json.loads((model / 'vocabulary.json').read_text())


def test_half_precision_halves_the_weights_alone(tmp_path):
    captioner = Captioner.load(save(randomized(Merge(DIM, WORDS, 64)), tmp_path / 'model'))
    link = load_encoder('demo')[0]
    scores = []
    for precision in 'float32', 'float16':
        export(captioner, link, tmp_path / precision, precision)
        start, step = (onnxruntime.InferenceSession(tmp_path / precision / f'decoder_{name}.onnx')
                       for name in ('start', 'step'))
        features = np.random.default_rng(0).random((2, DIM), np.float32)
        state = start.run(None, {'features': features})
        *_, log_probs = step.run(None, {**{f'state{i}': array for i, array in enumerate(state)},
                                        'parents': np.arange(2), 'tokens': np.zeros(2, int)})
        scores.append(log_probs)
    np.testing.assert_allclose(*scores, atol=0.1)
    sizes = [(tmp_path / precision / 'decoder_start.onnx').stat().st_size for precision in ('float32', 'float16')]
    assert abs(sizes[1] / sizes[0] - 0.5) < 0.02


def test_the_pretrained_model_is_the_default(tmp_path, call):
    status, _, err = call('export', '-o', tmp_path / 'out')
    assert status == 0 and 'pretrained' in err
    out = tmp_path / 'out'
    assert json.loads((out / 'config.json').read_text())['search'] == {
        'width': 5, 'top': 5, 'length_normalization': 0.7, 'max_length': 60}
    assert (out / 'LICENSE').read_text() == (PRETRAINED / 'LICENSE').read_text()


def test_an_export_is_replaced_if_that_is_wanted(tmp_path, call, refused):
    model = save(randomized(Merge(DIM, WORDS, 8)), tmp_path / 'model')
    assert call('export', model, '-o', tmp_path / 'out')[0] == 0
    assert '--overwrite replaces it' in refused('export', model, '-o', tmp_path / 'out')
    assert call('export', model, '-o', tmp_path / 'out', '--overwrite')[0] == 0
    before = sorted(path.read_bytes() for path in model.iterdir())
    assert 'holds a model directory' in refused('export', model, '-o', model, '--overwrite')
    assert sorted(path.read_bytes() for path in model.iterdir()) == before


def test_bad_calls_are_refused_in_one_line(tmp_path, refused):
    out, model = tmp_path / 'out', randomized(Merge(DIM, WORDS, 8))
    assert 'no such model directory' in refused('export', tmp_path / 'none', '-o', out)
    other = save(model, tmp_path / 'other', ('ours', 'ours'))
    assert 'cannot be computed here' in refused('export', other, '-o', out)
    unknown = save(model, tmp_path / 'unknown', None)
    assert 'no such file' in refused('export', unknown, '-o', out, '-i', tmp_path / 'vgg.npz', '--quiet')
    assert '--encoder efficientnet_lite0: the model' in refused(
        'export', save(model, tmp_path / 'demo'), '-o', out, '--encoder', 'efficientnet_lite0')
    (tmp_path / 'file').write_text('')
    assert 'cannot be written' in refused('export', tmp_path / 'demo', '-o', tmp_path / 'file' / 'out')
    model.out_word.W.array[4, 4] = 1e6
    large = save(Merge(DIM, WORDS, 64), tmp_path / 'large')
    with np.load(large / 'weights.npz') as arrays:
        np.savez(large / 'weights.npz', **{**arrays, 'image_vec/W': arrays['image_vec/W'] * 0 + 1e6})
    assert '--precision float16: a weight of the model is too large' in refused(
        'export', large, '-o', out, '--precision', 'float16')


def test_a_model_of_unknown_provenance_is_exported_with_the_encoder_named(images, tmp_path, call):
    model = save(randomized(Merge(DIM, WORDS, 8)), tmp_path / 'model', None)
    assert call('export', model, '-o', tmp_path / 'out', '--encoder', 'demo', '--preprocessing', 'demo')[0] == 0
    captioner = Captioner.load(model, encoder='demo', preprocessing='demo')
    assert run_program(tmp_path / 'out', *images) == (0, expected_text(captioner, images), '')
