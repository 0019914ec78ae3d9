"""Merge against a plain Chainer chain, run word by word and caption by caption."""
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from test_decoding import all_captions
from test_models_show_and_tell import gradients, seed_chain_of

from chainer_caption.data.batches import pack
from chainer_caption.data.vocabulary import BOS, EOS
from chainer_caption.decoding import BeamSearch
from chainer_caption.models import Merge

D, V, H = 11, 13, 8


class PlainMerge(chainer.Chain):
    """As the tutorials have it: the image, the words, their sum, and two layers."""

    def __init__(self, words=V):
        super().__init__()
        with self.init_scope():
            self.word_vec = L.EmbedID(words, H)
            self.image_vec = L.Linear(D, H)
            self.lstm = L.LSTM(H, H)
            self.joint = L.Linear(H, H)
            self.out_word = L.Linear(H, words)

    def scores(self, feature, words):
        """What follows the words, (1, V); `<S>` is read before them."""
        self.lstm.reset_state()
        for word in [BOS, *words]:
            h = self.lstm(self.word_vec(np.array([word], np.int32)))
        return self.out_word(F.relu(self.joint(h + F.relu(self.image_vec(feature[None])))))

    def next_log_probs(self, feature, words):
        return F.log_softmax(self.scores(feature, words)).array[0].astype(np.float64)

    def loss(self, feature, caption):
        return sum(F.softmax_cross_entropy(self.scores(feature, caption[:t]), caption[t:t + 1])
                   for t in range(len(caption)))


@pytest.fixture
def model():
    model, rng = Merge(D, V, H), np.random.default_rng(2)
    for param in model.params():
        param.array[...] = 0.5 * rng.standard_normal(param.shape)
    return model


@pytest.fixture
def features():
    return np.random.default_rng(1).random((5, D), np.float32)


def test_loss_and_gradients_equal_a_plain_chains(model, features):
    rng = np.random.default_rng(0)
    captions = [np.append(rng.integers(3, V, n), EOS).astype(np.int32) for n in (7, 7, 4, 2, 0)]
    plain = seed_chain_of(model, PlainMerge())
    with chainer.using_config('train', False):
        loss = model(features, *pack(captions))
        expected = sum(plain.loss(f, c) for f, c in zip(features, captions, strict=True)) / sum(map(len, captions))
    for chain, variable in ((model, loss), (plain, expected)):
        chain.cleargrads()
        variable.backward()
    assert float(loss.array) == pytest.approx(float(expected.array), rel=1e-6)
    ours = gradients(model)
    for name, gradient in gradients(plain).items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-4, atol=1e-7, err_msg=name)


def test_a_wide_beam_finds_what_exhaustive_search_finds():
    model, rng = Merge(D, 5, H), np.random.default_rng(4)
    for param in model.params():
        param.array[...] = rng.standard_normal(param.shape)
    model.out_word.b.array[EOS] -= 3
    x = rng.random((3, D), np.float32)
    plain = seed_chain_of(model, PlainMerge(5))
    for feature, found in zip(x, BeamSearch(width=999, top=7, max_length=4)(model.decoder(), x), strict=True):
        expected = all_captions(plain.next_log_probs, feature, 4, False, 0)[:7]
        assert [h.words for h in found] == [words for _, words, _ in expected]
        np.testing.assert_allclose([h.log_prob for h in found], [s for s, _, _ in expected], atol=1e-5)
