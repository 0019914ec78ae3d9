"""The model directory: what is saved is what is loaded, the chain of 2017 reads it too, and nothing in it can run."""
import json
import os
import shutil

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from chainer.serializers import DictionarySerializer, NpzDeserializer

from chainer_caption import Bundle, Captioner, InputError, Settings, train
from chainer_caption.data import Dataset
from chainer_caption.decoding import BeamSearch
from chainer_caption.models import ShowAndTell
from chainer_caption.models.bundle import check_new
from chainer_caption.storage.serializers import from_arrays, to_arrays

FILES = ['config.json', 'vocabulary.json', 'weights.npz']


class ChainOf2017(chainer.Chain):
    """The encoder of the users who come from dsanno/chainer-image-caption, as its README describes it."""

    def __init__(self, words, features, hidden):
        super().__init__()
        with self.init_scope():
            self.word_vec = L.EmbedID(words, hidden)
            self.image_vec = L.Linear(features, hidden)
            self.lstm = L.LSTM(hidden, hidden)
            self.out_word = L.Linear(hidden, words)


@pytest.fixture
def copy(model_dir, tmp_path):
    """A model directory to be damaged."""
    return shutil.copytree(model_dir, tmp_path / 'model')


def arrays_of(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def save_arrays(path, arrays):
    with open(path, 'wb') as f:
        np.savez(f, **arrays)


def edit_json(path, **changes):
    value = json.loads(path.read_text(encoding='utf-8'))
    path.write_text(json.dumps({**value, **changes}), encoding='utf-8')


def refusal(folder, name=''):
    with pytest.raises(InputError) as caught:
        Bundle.load(folder)
    message, place = str(caught.value), os.path.join(folder, name) if name else str(folder)
    assert '\n' not in message and message.startswith(f'{place}: '), message
    return message.removeprefix(f'{place}: ')


def test_round_trip(model_dir, dataset_dir, tmp_path):
    first = Bundle.load(model_dir)
    first.provenance = {'encoder': 'vgg16', 'preprocessing': 'karpathy'}
    first.save(tmp_path / 'deep' / 'model')
    second = Bundle.load(tmp_path / 'deep' / 'model')
    assert sorted(os.listdir(tmp_path / 'deep' / 'model')) == sorted([*FILES, 'familiarity.npz'])
    assert (second.vocabulary.words, second.vocabulary.counts) == (first.vocabulary.words, first.vocabulary.counts)
    assert (second.provenance, second.training) == (first.provenance, first.training)
    assert second.model.dropout == first.model.dropout == 0.5
    before, after = to_arrays(first.model), to_arrays(second.model)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], strict=True)
    dataset = Dataset(dataset_dir)
    assert list(Captioner(first).caption_dataset(dataset, 'test')) == \
        list(Captioner(second).caption_dataset(dataset, 'test'))


def test_weights_of_any_precision_load(copy):
    halves = {name: array.astype(np.float16) for name, array in arrays_of(copy / 'weights.npz').items()}
    save_arrays(copy / 'weights.npz', halves)
    model = Bundle.load(copy).model
    assert model.lstm.upward.W.dtype == np.float32
    np.testing.assert_array_equal(model.lstm.upward.W.array, halves['lstm/upward/W'])


def test_vocabulary_of_any_text(model_dir, copy):
    words = json.loads((copy / 'vocabulary.json').read_text(encoding='utf-8'))['words']
    words[3:7] = ['ống', '😀', '\ud83d', 'two words']
    bundle = Bundle.load(model_dir)
    bundle.vocabulary.words[:] = words
    bundle.save(copy)
    assert Bundle.load(copy).vocabulary.words == words
    assert 'ống' in (copy / 'vocabulary.json').read_bytes().decode('utf-8'), 'readable, not escaped'


def test_halves_of_surrogate_pairs_train(tmp_path):
    (tmp_path / 'r').mkdir()
    images = [{'filename': '\udcff.jpg', 'imgid': 0, 'split': 'train', 'sentences': [{'tokens': ['\ud83d', 'a']}]}]
    (tmp_path / 'r' / 'dataset.json').write_text(json.dumps({'images': images}))
    np.save(tmp_path / 'r' / 'feats.npy', np.ones((1, 3), np.float32))
    bundle = train(Dataset(tmp_path / 'r'), tmp_path / 'm', Settings(epochs=1, hidden=4, min_count=1))
    assert bundle.vocabulary.words[3:] == ['a', '\ud83d']


def test_the_seeds_chain_loads_our_weights_and_we_load_its(model_dir, copy):
    """Names, shapes and layouts: the gates are those of L.LSTM, so both say the same of an image and its words."""
    ours = Bundle.load(model_dir).model
    with np.load(model_dir / 'weights.npz', allow_pickle=False) as archive:
        seed = ChainOf2017(ours.vocabulary_size, ours.feature_size, ours.hidden)
        NpzDeserializer(archive).load(seed)
    feature, words = np.random.default_rng(0).random((1, 16), np.float32), [3, 5, 4]

    def loss_of_seed():
        with chainer.using_config('train', False), chainer.no_backprop_mode():
            seed.lstm.reset_state()
            seed.lstm(seed.image_vec(feature))
            losses = []
            for word, target in zip([0, *words], [*words, 1], strict=True):
                h = seed.lstm(seed.word_vec(np.array([word], np.int32)))
                losses.append(float(F.softmax_cross_entropy(seed.out_word(h), np.array([target], np.int32)).array))
            return np.mean(losses)

    def loss_of_ours(model):
        with chainer.using_config('train', False), chainer.no_backprop_mode():
            return float(model(feature, np.array([0, *words], np.int32), np.array([*words, 1], np.int32),
                               [1] * 4).array)

    assert loss_of_ours(ours) == pytest.approx(loss_of_seed(), rel=1e-5)
    for parameter in seed.params():
        parameter.array[...] = np.random.default_rng(1).normal(0, 0.3, parameter.shape)
    chainer.serializers.save_npz(str(copy / 'weights.npz'), seed)
    assert loss_of_ours(Bundle.load(copy).model) == pytest.approx(loss_of_seed(), rel=1e-5)
    serializer = DictionarySerializer()
    serializer.save(seed)
    assert set(serializer.target) == set(arrays_of(model_dir / 'weights.npz'))


def test_nothing_in_a_model_directory_is_a_pickle(model_dir):
    archives = sorted(path.name for path in model_dir.glob('*.npz'))
    assert archives == ['familiarity.npz', 'snapshot-3.npz', 'snapshot-6.npz', 'weights.npz']
    for name in archives:
        for array in arrays_of(model_dir / name).values():     # allow_pickle=False would refuse
            assert not array.dtype.hasobject
    assert not [path for path in model_dir.rglob('*') if path.suffix in ('.pkl', '.pickle', '.pt')]


def pickled(value):
    array = np.empty(1, object)
    array[0] = value
    return array


def test_weights_with_a_pickle_are_refused_and_nothing_runs(copy, payload):
    sound = arrays_of(copy / 'weights.npz')
    for name in ('word_vec/W', 'lstm/h', 'something/else'):
        save_arrays(copy / 'weights.npz', {**sound, name: pickled(payload)})
        assert 'pickle' in refusal(copy, 'weights.npz')
    assert not payload.ran
    save_arrays(copy / 'weights.npz', {**sound, 'word_vec/W': pickled(payload)})
    with pytest.raises(Exception):                      # noqa: B017 (whatever Chainer makes of it, afterwards)
        chainer.serializers.load_npz(str(copy / 'weights.npz'), ChainOf2017(12, 16, 16))
    assert payload.ran, "Chainer's load_npz would have run it"


@pytest.mark.parametrize('name', FILES)
def test_missing_files(name, copy):
    (copy / name).unlink()
    assert refusal(copy).startswith(f'lacks {name}')


def test_missing_folder(tmp_path):
    assert refusal(tmp_path / 'nowhere') == 'no such model directory'
    (tmp_path / 'file').write_text('')
    assert refusal(tmp_path / 'file').startswith('not a model directory')
    (tmp_path / 'empty').mkdir()
    assert refusal(tmp_path / 'empty').startswith('lacks config.json')


@pytest.mark.parametrize('name', ['config.json', 'vocabulary.json'])
@pytest.mark.parametrize('content', ['', '{', '[]', 'null', '{}', '"text"', '\xff'])
def test_damaged_json(name, content, copy):
    (copy / name).write_bytes(content.encode('latin-1'))
    refusal(copy, name)


@pytest.mark.parametrize('changes', [
    {'format': 2}, {'model': 'transformer'}, {'hidden': 0}, {'hidden': 'many'}, {'hidden': True}, {'hidden': None},
    {'feature_size': -1}, {'vocabulary_size': 1.5}, {'dropout': 1}, {'dropout': None}, {'dropout': float('nan')},
    {'features': 'vgg19'}, {'features': {'encoder': 'vgg19'}}, {'training': []}, {'model': ['show_and_tell']},
    {'search': []}, {'search': {'width': 0}}, {'search': {'width': 2.5}}, {'search': {'length_normalization': -1}},
    {'search': {'length_normalization': float('inf')}}, {'search': {'breadth': 3}}], ids=str)
def test_configurations_that_make_no_sense(changes, copy):
    edit_json(copy / 'config.json', **changes)
    refusal(copy, 'config.json')


def test_files_of_different_models(copy):
    edit_json(copy / 'config.json', vocabulary_size=13)
    assert refusal(copy, 'vocabulary.json').startswith('12 words, but config.json says 13')
    edit_json(copy / 'config.json', vocabulary_size=12, hidden=10 ** 6)      # would take gigabytes
    assert 'shape' in refusal(copy, 'weights.npz')
    edit_json(copy / 'config.json', hidden=16, feature_size=17)
    assert 'image_vec/W is float32 of shape (16, 16)' in refusal(copy, 'weights.npz')


@pytest.mark.parametrize('name, value', [
    ('out_word/W', np.zeros((12, 17), np.float32)), ('out_word/b', np.zeros((12, 1), np.float32)),
    ('lstm/lateral/W', np.zeros((64, 16), np.int32)), ('word_vec/W', np.full((12, 16), np.nan, np.float32)),
    ('image_vec/b', np.full(16, np.inf, np.float32)), ('lstm/upward/b', None)])
def test_weights_that_do_not_fit(name, value, copy):
    arrays = {**arrays_of(copy / 'weights.npz'), name: value}
    save_arrays(copy / 'weights.npz', {key: array for key, array in arrays.items() if array is not None})
    assert name in refusal(copy, 'weights.npz')


def test_weights_cut_short(copy):
    content = (copy / 'weights.npz').read_bytes()
    for length in range(0, len(content) - 1, 97):
        (copy / 'weights.npz').write_bytes(content[:length])
        refusal(copy, 'weights.npz')
    damaged = bytearray(content)
    damaged[1000] ^= 0xff
    (copy / 'weights.npz').write_bytes(damaged)
    refusal(copy, 'weights.npz')


class Holder(chainer.Link):
    """Serializes whatever values it is given, one of them below another."""

    def __init__(self, below=None, **values):
        super().__init__()
        self.below, self.values = below, values

    def serialize(self, serializer):
        self.values = {name: serializer(name, value) for name, value in self.values.items()}
        self.below = serializer['child']('below', self.below)


def test_none_survives_without_a_pickle():
    arrays = to_arrays(Holder(nothing=None, number=3, array=np.arange(3), text='a', empty=np.zeros((0, 0, 0))))
    assert not [name for name, array in arrays.items() if array.dtype.hasobject]
    loaded = Holder(nothing=None, number=0, array=np.zeros(3, int), text='', empty=np.ones((0, 0, 0)), below=7)
    from_arrays(arrays, loaded)
    assert loaded.values['nothing'] is None and loaded.below is None
    assert loaded.values['number'] == 3 and loaded.values['array'].tolist() == [0, 1, 2]
    assert loaded.values['empty'] is not None


def test_a_model_says_what_to_caption_with(copy, dataset_dir):
    assert Bundle.load(copy).search == {} and 'search' not in json.loads((copy / 'config.json').read_text())
    assert Captioner.load(copy, images=False).search() == BeamSearch(width=20, top=5, length_normalization=0)
    edit_json(copy / 'config.json', search={'width': 3, 'length_normalization': 0.7})
    captioner = Captioner.load(copy, images=False)
    assert captioner.search() == BeamSearch(width=3, top=3, length_normalization=0.7)
    assert captioner.search(width=6) == BeamSearch(width=6, top=5, length_normalization=0.7)
    assert captioner.search(BeamSearch(width=9)) == BeamSearch(width=9)
    with pytest.raises(TypeError):
        captioner.search(breadth=3)
    dataset = Dataset(dataset_dir)
    of_its_own, asked_for = (list(captioner.caption_dataset(dataset, 'test', **options)) for options in (
        {}, {'width': 3, 'top': 3, 'length_normalization': 0.7}))
    assert of_its_own == asked_for and {len(result.captions) for result in of_its_own} == {3}
    captioner.bundle.save(copy)
    assert Bundle.load(copy).search == {'width': 3, 'length_normalization': 0.7}


def test_unknown_options_of_a_search_are_noticed_at_once(model_dir, dataset_dir):
    captioner = Captioner.load(model_dir, images=False)
    with pytest.raises(TypeError, match='breadth'):
        captioner.caption_dataset(Dataset(dataset_dir), 'test', breadth=3)
    with pytest.raises(TypeError, match='breadth'):
        captioner.caption_features(np.zeros((1, 16), np.float32), breadth=3)


def test_loading_draws_no_weights(model_dir, monkeypatch):
    # At ten thousand words that would take longer than all the rest.
    monkeypatch.setattr(np.random, 'normal', None)
    monkeypatch.setattr(chainer.initializers.LeCunNormal, '__call__', None)
    assert Bundle.load(model_dir).model.hidden == 16


def test_existing_models_are_not_overwritten(model_dir, dataset_dir, tmp_path):
    check_new(tmp_path / 'new' / 'model', resume=False, overwrite=False)
    assert os.listdir(tmp_path / 'new' / 'model') == []
    before = {path: path.stat().st_mtime_ns for path in model_dir.iterdir()}
    with pytest.raises(InputError, match='there is a model in it already'):
        check_new(model_dir, resume=False, overwrite=False)
    check_new(model_dir, resume=True, overwrite=False)
    check_new(model_dir, resume=False, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in model_dir.iterdir()} == before


@pytest.mark.parametrize('folder', ['file', 'file/below'])
def test_folders_that_cannot_be_written(folder, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        check_new(tmp_path / folder, resume=False, overwrite=False)
    with pytest.raises(InputError, match='cannot be written'):
        Bundle(ShowAndTell(3, 4, 5), None).save(tmp_path / folder)
