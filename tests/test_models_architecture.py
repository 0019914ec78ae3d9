"""An architecture of one's own: registered, it is trained, searched, saved and loaded as ours are."""
import json
import subprocess
import sys

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from conftest import write_dataset

from chainer_caption import Bundle, Captioner, Dataset, InputError, Vocabulary
from chainer_caption.data.vocabulary import SPECIAL
from chainer_caption.decoding import BeamSearch, Sampling
from chainer_caption.functions import mask_key
from chainer_caption.models import ARCHITECTURES, Architecture, Merge, ShowAndTell, register_architecture
from chainer_caption.models.bundle import _build
from chainer_caption.storage.serializers import to_arrays
from chainer_caption.training import make_trainer
from chainer_caption.training.settings import Settings


class BagOfWords(Architecture):
    """The image and the mean of the words so far: no LSTM, no dropout, its own arguments and no optional ones."""

    def __init__(self, feature_size, vocabulary_size, hidden=8, layers=1, activation='tanh', options=None):
        super().__init__()
        with self.init_scope():
            self.image_vec = L.Linear(feature_size, hidden)
            self.word_vec = L.EmbedID(vocabulary_size, hidden)
            self.joints = chainer.ChainList(*(L.Linear(hidden, hidden) for _ in range(layers)))
            self.out_word = L.Linear(hidden, vocabulary_size)

    def layer(self, image, mean):
        h = getattr(F, self.activation)(image + mean)
        for joint in self.joints:
            h = getattr(F, self.activation)(joint(h))
        return h

    def outputs(self, features, words, batch_sizes, update_key):
        image, means, total, start = self.image_vec(features), [], 0, 0
        for t, size in enumerate(batch_sizes, 1):
            total = (total if t == 1 else total[:size]) + self.word_vec(words[start:start + size])
            means.append(self.layer(image[:size], total / t))
            start += size
        return F.concat(means, axis=0)

    def decoder(self):
        return BagDecoder(self)


class BagDecoder:

    def __init__(self, model):
        self.device, self.bias, self.model = model.device, model.out_word.b.array, model

    def start(self, features):
        return self.model.image_vec(features).array, 0, 0

    def step(self, state, parents, tokens):
        image, total, t = state
        parents, tokens = self.device.send(parents), self.device.send(tokens)
        image, total = image[parents], (total[parents] if t else 0) + self.model.word_vec.W.array[tokens]
        h = self.model.layer(image, total / (t + 1)).array
        return (image, total, t + 1), h @ self.model.out_word.W.array.T


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(BagOfWords, 'architecture', None)
    monkeypatch.setitem(ARCHITECTURES, 'bag', None)
    del ARCHITECTURES['bag']
    return register_architecture('bag')(BagOfWords)


@pytest.fixture
def bundle(registered):
    words = [*SPECIAL, 'a', 'b', 'c']
    model = BagOfWords(16, len(words), 5, layers=2, options={'any': ['JSON', 1]})
    return Bundle(model, Vocabulary(words, [3] * len(words)))


def test_it_is_saved_and_loaded_with_arguments_of_its_own(bundle, tmp_path):
    bundle.save(tmp_path / 'm')
    config = json.loads((tmp_path / 'm' / 'config.json').read_text())
    assert (config['model'], config['layers'], config['options']) == ('bag', 2, {'any': ['JSON', 1]})
    loaded = Bundle.load(tmp_path / 'm').model
    assert isinstance(loaded, BagOfWords) and loaded.configuration == bundle.model.configuration
    for name, array in to_arrays(bundle.model).items():
        np.testing.assert_array_equal(to_arrays(loaded)[name], array)
    assert (loaded.hidden, loaded.layers, loaded.activation) == (5, 2, 'tanh')
    del ARCHITECTURES['bag']
    with pytest.raises(InputError, match=r"config.json: register 'bag' first: --import the module that defines it"):
        Bundle.load(tmp_path / 'm')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'layers': 'two'}, '"layers" should be a value like 1'), ({'layers': 3}, 'lacks joints/2'),
    ({'hidden': 10 ** 9}, 'of shape'), ({'activation': 3}, '"activation" should be a value like'),
    ({'hidden': None}, '"hidden" should be a positive whole number')])
def test_what_does_not_fit_is_refused(bundle, tmp_path, changes, message):
    bundle.save(tmp_path / 'm')
    config = json.loads((tmp_path / 'm' / 'config.json').read_text())
    (tmp_path / 'm' / 'config.json').write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=message):
        Bundle.load(tmp_path / 'm')


def test_no_more_memory_is_taken_than_the_weights_hold(bundle, tmp_path, monkeypatch):
    bundle.save(tmp_path / 'm')
    largest = []
    empty = np.empty
    monkeypatch.setattr(np, 'empty', lambda shape, *a, **k: (largest.append(np.prod(shape)), empty(shape, *a, **k))[1])
    with pytest.raises(InputError):
        _build(tmp_path / 'm' / 'weights.npz', BagOfWords, {'feature_size': 2, 'vocabulary_size': 6, 'hidden': 10 ** 9})
    assert max(largest, default=0) < 2 ** 20
    assert chainer.initializers.generate_array.__module__.startswith('chainer.')


def test_it_is_searched_and_sampled_as_ours_are(bundle):
    model, x = bundle.model, np.random.default_rng(0).random((3, 16), np.float32)
    with chainer.using_config('train', False):
        for found in BeamSearch(width=4, max_length=5)(model.decoder(), x), Sampling(max_length=5)(model.decoder(), x):
            assert all(hypotheses for hypotheses in found)
        sampled = model.sample(x, mask_key(0, 0, 0), 5)
    model.cleargrads()
    loss = model.sampled_loss(x, sampled, np.array([1, -1, 0.5], np.float32))
    loss.backward()
    assert np.isfinite(float(loss.array)) and np.abs(model.out_word.W.grad).max() > 0


@pytest.mark.parametrize('objective', ['cross-entropy', 'self-critical'])
def test_it_is_trained_as_ours_are(registered, tmp_path, objective):
    dataset = Dataset(write_dataset(tmp_path / 'dataset'))
    vocabulary = Vocabulary.from_counts(*dataset.word_counts('train'), min_count=1)
    bundle = Bundle(registered(dataset.feature_size, len(vocabulary)), vocabulary, tokenizer=dataset.captions.tokenizer)
    before = bundle.model.out_word.W.array.copy()
    make_trainer(dataset, bundle, tmp_path / 'out', Settings(objective=objective, epochs=1, batch_size=16, samples=3)
                 if objective == 'self-critical' else Settings(epochs=1, batch_size=16)).run()
    assert (bundle.model.out_word.W.array != before).any()
    bundle.save(tmp_path / 'm')
    assert len(list(Captioner.load(tmp_path / 'm', images=False).caption_dataset(dataset, 'test'))) > 0


def test_a_name_is_given_once(registered):
    with pytest.raises(ValueError, match=r"the architecture 'merge' is chainer_caption\.models\.merge\.Merge already"):
        register_architecture('merge')(BagOfWords)
    assert register_architecture('bag')(BagOfWords) is BagOfWords and ARCHITECTURES['merge'] is Merge


def test_an_architecture_without_a_name_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(BagOfWords, 'architecture', None)
    with pytest.raises(InputError, match='BagOfWords: register the architecture first'):
        Bundle(BagOfWords(3, 4, 5), Vocabulary([*SPECIAL, 'a'], [1] * 4)).save(tmp_path / 'm')


def test_initial_weights_follow_from_the_seed_and_frequencies():
    frequencies = np.arange(4, dtype=np.float32)
    one, two = (BagOfWords.create({'feature_size': 3, 'vocabulary_size': 4, 'hidden': 5}, seed=7,
                                  log_frequencies=frequencies) for _ in range(2))
    np.testing.assert_array_equal(one.word_vec.W.array, two.word_vec.W.array)
    np.testing.assert_array_equal(one.out_word.b.array, frequencies)
    assert BagOfWords.chosen == {'hidden': 8} and ShowAndTell.chosen == {'hidden': 512}


def test_bfloat16_is_imported_only_where_it_is_asked_for(package_environment):
    program = 'import sys, chainer_caption.models; print("chainer_caption.functions.bfloat16" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', program], env=package_environment, capture_output=True, text=True,
                          check=True)
    assert done.stdout == 'False\n'
