"""EncoderDecoder against a plain Chainer chain, run place by place."""
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest
from test_decoding import all_captions
from test_models_show_and_tell import gradients, seed_chain_of

from chainer_caption import InputError
from chainer_caption.data.batches import pack
from chainer_caption.data.vocabulary import EOS
from chainer_caption.decoding import BeamSearch, Sampling
from chainer_caption.models import EncoderDecoder
from chainer_caption.models.ensemble import EnsembleDecoder

D, V, H, T = 11, 13, 8, 6


class PlainEncoderDecoder(chainer.Chain):
    """As Keras would run it: `RepeatVector`, an LSTM, `RepeatVector`, a bidirectional LSTM, a layer at each place."""

    def __init__(self, words=V, max_positions=T):
        super().__init__()
        self.max_positions = max_positions
        with self.init_scope():
            self.image_vec = L.Linear(D, H)
            self.encoder, self.forwards, self.backwards = (L.LSTM(H, H) for _ in range(3))
            self.out_word = L.Linear(2 * H, words)

    def scores(self, feature):
        """Of the words at each place, a list of (1, V)."""
        for link in (self.encoder, self.forwards, self.backwards):
            link.reset_state()
        image = self.image_vec(feature[None])
        code = [self.encoder(image) for _ in range(self.max_positions)][-1]
        repeated = [code] * self.max_positions
        forwards = [self.forwards(x) for x in repeated]
        backwards = [self.backwards(x) for x in reversed(repeated)]
        return [self.out_word(F.concat(pair)) for pair in zip(forwards, reversed(backwards), strict=True)]

    def next_log_probs(self, feature, words):
        if len(words) >= self.max_positions:                   # nothing but the end is left
            return np.where(np.arange(self.out_word.W.shape[0]) == EOS, 0, -np.inf)
        return F.log_softmax(self.scores(feature)[len(words)]).array[0].astype(np.float64)

    def loss(self, feature, caption):
        return sum(F.softmax_cross_entropy(scores, caption[t:t + 1])
                   for t, scores in zip(range(len(caption)), self.scores(feature), strict=False))


def random_model(words=V, seed=2, max_positions=T):
    model, rng = EncoderDecoder(D, words, H, max_positions=max_positions), np.random.default_rng(seed)
    for param in model.params():
        param.array[...] = 0.8 * rng.standard_normal(param.shape)
    return model


@pytest.fixture
def captions():
    rng = np.random.default_rng(0)
    return [np.append(rng.integers(3, V, n), EOS).astype(np.int32) for n in (T - 1, T - 1, 4, 2, 0)]


@pytest.fixture
def features():
    return np.random.default_rng(1).random((5, D), np.float32)


# The images that the captions are of: several of one, and in no order.
IMAGES = np.array([2, 0, 1, 2, 2])


@pytest.mark.parametrize('device', ['@numpy', pytest.param('@cupy:0', marks=pytest.mark.gpu)])
@pytest.mark.parametrize('images', [None, IMAGES], ids=['each its own', 'shared'])
def test_loss_and_gradients_equal_a_plain_chains(captions, features, images, device):
    model = random_model()
    plain, device = seed_chain_of(model, PlainEncoderDecoder()), chainer.get_device(device)
    model.to_device(device)
    words, targets, batch_sizes = pack(captions)
    distinct = features if images is None else features[:3]
    of_caption = features if images is None else features[images]
    with chainer.using_config('train', False), chainer.using_device(device):
        loss = model(*map(device.send, (distinct, words, targets)), batch_sizes, images=images)
        model.cleargrads()
        loss.backward()
        model.to_device('@numpy')
        expected = sum(plain.loss(f, c) for f, c in zip(of_caption, captions, strict=True)) / sum(map(len, captions))
    plain.cleargrads()
    expected.backward()
    assert float(loss.array) == pytest.approx(float(expected.array), rel=1e-6)
    ours = gradients(model)
    for name, gradient in gradients(plain).items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize('normalization', [0.0, 0.7])
def test_a_wide_beam_finds_what_exhaustive_search_finds(features, normalization):
    # Captions of all places, too, which end because there is nothing else to say.
    model = random_model(5, max_positions=4)
    model.out_word.b.array[EOS] -= 2
    plain = seed_chain_of(model, PlainEncoderDecoder(5, 4))
    search = BeamSearch(width=999, top=40, max_length=5, length_normalization=normalization)
    for feature, found in zip(features, search(model.decoder(), features), strict=True):
        expected = all_captions(plain.next_log_probs, feature, 5, False, normalization)[:40]
        expected = [caption for caption in expected if caption[0] > -np.inf]
        assert [h.words for h in found] == [words for _, words, _ in expected]
        assert max(len(h.words) for h in found) == 4 and all(h.finished for h in found)
        score = [h.log_prob / (len(h.words) + 1) ** normalization for h in found]
        np.testing.assert_allclose(score, [s for s, _, _ in expected], atol=1e-5)


def test_samples_and_ensembles_know_no_difference(features):
    decoders = [random_model(seed=seed).decoder() for seed in (2, 3)]
    drawn = Sampling(top=3, seed=1)(decoders[0], features)
    assert all(len(h.words) <= T and h.finished for best in drawn for h in best)
    alone, together, both = (BeamSearch(width=5)(decoder, features) for decoder in (
        decoders[0], EnsembleDecoder(decoders[:1] * 2), EnsembleDecoder(decoders)))
    assert [[h.words for h in best] for best in together] == [[h.words for h in best] for best in alone]
    assert both != together


def test_captions_that_are_too_long_are_refused_with_their_number(captions, features):
    with pytest.raises(InputError, match=r'^3 captions have more words than the 3 that 4 places have room for'):
        random_model(max_positions=4)(features, *pack(captions))
