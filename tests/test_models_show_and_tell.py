"""ShowAndTell against the chain of 2017, run word by word and caption by caption."""
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np
import pytest

from chainer_caption.data.batches import pack
from chainer_caption.data.vocabulary import BOS, EOS
from chainer_caption.functions import Adam, mask_key
from chainer_caption.functions.dropout import apply_mask
from chainer_caption.models import ShowAndTell
from chainer_caption.models.decoder import LSTMDecoder

D, V, H = 11, 30, 16


class ChainOf2017(chainer.Chain):
    """The chain that users of 2017 trained: one Chainer call a word."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.word_vec = L.EmbedID(V, H)
            self.image_vec = L.Linear(D, H)
            self.lstm = L.LSTM(H, H)
            self.out_word = L.Linear(H, V)

    def loss(self, feature, caption, feature_mask=1, image_mask=1, word_masks=None, output_masks=None):
        """The sum of one caption's losses."""
        self.lstm.reset_state()
        self.lstm(self.image_vec(feature[None] * feature_mask) * image_mask)
        total = 0
        for t, (word, target) in enumerate(zip([BOS, *caption[:-1]], caption, strict=True)):
            x = self.word_vec(np.array([word], np.int32))
            h = self.lstm(x if word_masks is None else x * word_masks[t])
            y = self.out_word(h if output_masks is None else h * output_masks[t])
            total += F.softmax_cross_entropy(y, np.array([target], np.int32))
        return total


@pytest.fixture
def captions():
    rng = np.random.default_rng(0)
    return [np.append(rng.integers(3, V, n), EOS).astype(np.int32) for n in (7, 7, 4, 2, 0)]


@pytest.fixture
def features():
    return np.random.default_rng(1).random((5, D), np.float32)


@pytest.fixture
def model():
    model = ShowAndTell(D, V, H)
    rng = np.random.default_rng(2)
    for param in model.params():
        param.array[...] = 0.3 * rng.standard_normal(param.shape)
    return model


def seed_chain_of(model, chain=None):
    """The chain of 2017, or another plain one, with the model's weights, by way of the serialized names."""
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(model)
    chain = chain or ChainOf2017()
    chainer.serializers.NpzDeserializer(serializer.target).load(chain)
    return chain


def gradients(chain):
    return {name: param.grad.copy() for name, param in chain.namedparams()}


def test_packed_loss_and_gradients_equal_the_seeds_chain(model, captions, features):
    seed = seed_chain_of(model)
    with chainer.using_config('train', False):
        loss = model(features, *pack(captions))
        expected = sum(seed.loss(f, c) for f, c in zip(features, captions, strict=True))
    expected /= sum(map(len, captions))
    model.cleargrads()
    loss.backward()
    seed.cleargrads()
    expected.backward()
    assert float(loss.array) == pytest.approx(float(expected.array), rel=1e-6)
    ours = gradients(model)
    for name, gradient in gradients(seed).items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-5, atol=1e-7, err_msg=name)


def masks(shape, update_key, site):
    return apply_mask(np.ones(shape, np.float32), 0.5, mask_key(*update_key, site))


def test_one_update_with_equal_masks_equals_plain_chainers(model, captions, features):
    seed, key = seed_chain_of(model), (3, 17)
    words, targets, batch_sizes = pack(captions)
    tokens = len(targets)
    feature_masks, image_masks = masks((5, D), key, 0), masks((5, H), key, 1)
    word_masks, output_masks = masks((tokens, H), key, 2), masks((tokens, H), key, 3)
    starts = np.cumsum([0, *batch_sizes])

    ours = Adam()
    ours.setup(model)
    ours.update(model, features, words, targets, batch_sizes, update_key=key)
    plain = chainer.optimizers.Adam()
    plain.setup(seed)
    loss = 0
    for i, caption in enumerate(captions):
        rows = starts[:len(caption)] + i
        loss += seed.loss(features[i], caption, feature_masks[i], image_masks[i], word_masks[rows],
                          output_masks[rows])
    seed.cleargrads()
    (loss / tokens).backward()
    plain.update()

    expected = dict(seed.namedparams())
    for name, param in model.namedparams():
        np.testing.assert_allclose(param.array, expected[name].array, rtol=0, atol=1e-5, err_msg=name)


def test_each_update_has_masks_of_its_own(model, captions, features):
    batch = pack(captions)
    losses = [float(model(features, *batch, update_key=(0, update)).array) for update in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_without_a_key_the_masks_follow_numpys_generator(model, captions, features):
    losses = []
    for seed in (0, 0, 1):
        np.random.seed(seed)                            # noqa: NPY002 (what a Chainer user would write)
        losses.append(float(model(features, *pack(captions)).array))
    assert losses[0] == losses[1] != losses[2]


def test_output_biases_start_at_the_word_frequencies():
    log_frequencies = np.log(np.arange(1, V + 1) / np.arange(1, V + 1).sum()).astype(np.float32)
    model = ShowAndTell(D, V, H, log_frequencies=log_frequencies)
    np.testing.assert_array_equal(model.out_word.b.array, log_frequencies)


def test_stepper_gives_the_scores_of_the_seeds_chain(model, captions, features):
    seed, decoder = seed_chain_of(model), LSTMDecoder(model)
    seed.lstm.reset_state()
    seed.lstm(seed.image_vec(features))
    state = decoder.start(features)
    words, parents = np.full(5, BOS), np.arange(5)
    rng = np.random.default_rng(4)
    for _ in range(4):
        state, scores = decoder.step(state, parents, words)
        # The chain of 2017 keeps one state a row: hypotheses are followed by reordering it.
        seed.lstm.c, seed.lstm.h = seed.lstm.c[parents], seed.lstm.h[parents]
        expected = seed.out_word(seed.lstm(seed.word_vec(words.astype(np.int32)))).array
        np.testing.assert_allclose(scores + decoder.bias, expected, rtol=1e-4, atol=1e-5)
        parents, words = rng.integers(0, 5, 5), rng.integers(0, V, 5)


@pytest.mark.gpu
def test_gpu_gives_the_cpus_loss_and_gradients(model, captions, features):
    batch, key = pack(captions), (0, 5)
    model.cleargrads()
    loss = model(features, *batch, update_key=key)
    loss.backward()
    expected = gradients(model)
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    words, targets, batch_sizes = batch
    with chainer.using_device(device):
        model.cleargrads()
        on_gpu = model(device.send(features), device.send(words), device.send(targets), batch_sizes, update_key=key)
        on_gpu.backward()
    assert float(on_gpu.array) == pytest.approx(float(loss.array), rel=1e-5)
    for name, param in model.namedparams():
        np.testing.assert_allclose(param.grad.get(), expected[name], rtol=1e-3, atol=1e-6, err_msg=name)
