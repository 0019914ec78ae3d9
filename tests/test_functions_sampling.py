"""Captions are drawn from the model's own distribution, and learning from them is the gradient of what they earn."""
import itertools

import chainer
import chainer.functions as F
import numpy as np
import pytest
import scipy.stats
from chainer.backends import cuda

from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.functions import mask_key, rollout, sample_words, uniforms
from chainer_caption.functions.compiled import compiled
from chainer_caption.functions.softmax import softmax_row
from chainer_caption.models import Merge, ShowAndTell
from chainer_caption.models.decoder import LSTMDecoder

D = 5

both = pytest.mark.parametrize('kind', [ShowAndTell, Merge])


def random_model(words, hidden=6, seed=0, scale=0.7, kind=ShowAndTell):
    rng = np.random.default_rng(seed)
    model = kind(D, words, hidden)
    for param in model.params():
        param.array[...] = scale * rng.standard_normal(param.shape)
    return model


def features(count, seed=1):
    return np.random.default_rng(seed).random((count, D), np.float32)


def log_prob(model, feature, caption):
    """Of a caption among those without `<S>` and `<UNK>`, by Chainer's links, a word at a time: a Variable."""
    model.lstm.reset_state()
    image = model.image_vec(feature[None])
    merges = isinstance(model, Merge)
    if not merges:
        model.lstm(image)
    total, read = 0, BOS
    for word in caption:
        h = model.lstm(model.word_vec(np.array([read], np.int32)))
        scores = model.out_word(F.relu(model.joint(h + F.relu(image))) if merges else h)
        kept = F.concat([scores[:, w:w + 1] for w in range(scores.shape[1]) if w not in (BOS, UNK)], axis=1)
        total += F.log_softmax(kept)[0, [w for w in range(scores.shape[1]) if w not in (BOS, UNK)].index(word)]
        read = word
    return total


def captions_of(sampled):
    """In the order of the images."""
    found = [None] * len(sampled.captions)
    for image, caption in zip(sampled.order, sampled.captions, strict=True):
        found[image] = tuple(int(word) for word in caption)
    return found


def all_captions(words, length):
    said = [w for w in range(words) if w not in (BOS, EOS, UNK)]
    for count in range(length):
        yield from (( *caption, EOS) for caption in itertools.product(said, repeat=count))
    yield from itertools.product(said, repeat=length)


def test_sampled_words_follow_their_probabilities():
    scores = np.array([[0.3, -1, 2, 0.5, -80, 1, 0.9]], np.float32)
    bias = np.array([0.2, -np.inf, -1, 0.1, 0, -0.5, 0], np.float32)
    count = 20_000
    rows = np.repeat(scores, count, axis=0)
    words, log_probs, totals = sample_words(rows, bias, uniforms(mask_key(3, 1, 4), np.arange(count)), keep=True)
    expected = scipy.special.softmax((scores[0] + bias).astype(float))
    seen = np.bincount(words, minlength=7)
    assert seen[1] == seen[4] == 0
    likely = expected > 1e-6
    assert scipy.stats.chisquare(seen[likely], count * expected[likely]).pvalue > 1e-3
    np.testing.assert_allclose(log_probs[:50], np.log(expected[words[:50]]), rtol=1e-5)
    np.testing.assert_allclose(rows[0] / totals[0], expected, atol=1e-6)
    assert rows[0, 1] == 0


@pytest.mark.parametrize('words', [63, 64, 65, 200])
def test_every_word_can_be_sampled(words):
    # Blocks of words are passed over as a whole: none must be lost at their bounds.
    rows, bias = np.zeros((40 * words, words), np.float32), np.zeros(words, np.float32)
    bias[2] = -np.inf
    sampled, log_probs, _ = sample_words(rows, bias, uniforms(mask_key(0, 0, 0), np.arange(len(rows))))
    assert set(sampled.tolist()) == set(range(words)) - {2}
    np.testing.assert_allclose(log_probs, -np.log(words - 1), rtol=1e-5)


@both
def test_captions_are_drawn_as_the_model_would_say_them(kind):
    model, x, length, count = random_model(6, scale=0.4, kind=kind), features(1), 3, 20_000
    said = captions_of(model.sample(np.repeat(x, count, axis=0), mask_key(0, 0, 0), length))
    space = list(all_captions(6, length))
    expected = np.exp([float(log_prob(model, x[0], caption).array) for caption in space])
    assert expected.sum() == pytest.approx(1, abs=1e-5) and set(said) <= set(space)
    seen = np.array([said.count(caption) for caption in space])
    assert count * expected.min() > 5                   # what the test wants
    assert scipy.stats.chisquare(seen, count * expected / expected.sum()).pvalue > 1e-3


def test_what_is_drawn_follows_from_the_key_and_the_place_alone():
    model, x = random_model(30), features(20)
    together = captions_of(model.sample(x, mask_key(0, 0, 0), 9))
    assert together == captions_of(model.sample(x, mask_key(0, 0, 0), 9))
    assert together[:7] == captions_of(model.sample(x[:7], mask_key(0, 0, 0), 9))
    assert together != captions_of(model.sample(x, mask_key(0, 1, 0), 9))


def test_rows_may_be_numbered():
    model, x = random_model(30), features(20)
    together, own = captions_of(model.sample(x, mask_key(0, 0, 0), 9)), np.array([3, 19, 0])
    assert captions_of(model.sample(x[own], mask_key(0, 0, 0), 9, own)) == [together[i] for i in own]


@both
def test_a_greedy_caption_has_the_likeliest_word_at_each_place(kind):
    model, x = random_model(9, kind=kind), features(12)
    model.out_word.b.array[[BOS, UNK]] += 9             # what would be likeliest, were it said
    model.out_word.b.array[EOS] -= 0.5
    found = model.greedy(x, 6)
    assert len({len(caption) for caption in found}) > 1
    for feature, caption in zip(x, found, strict=True):
        said = []
        while len(said) < 6 and said[-1:] != [EOS]:
            log_probs = {word: float(log_prob(model, feature, [*said, word]).array) for word in (EOS, *range(3, 9))}
            said.append(max(log_probs, key=log_probs.get))
        assert caption.tolist() == said


@both
def test_the_loss_and_its_gradients_are_those_of_a_plain_chain(kind):
    model, x = random_model(15, kind=kind), features(24)
    model.out_word.b.array[EOS] += 1.5                  # captions of several lengths
    sampled = model.sample(x, mask_key(0, 0, 0), 6)
    captions = captions_of(sampled)
    assert len({len(caption) for caption in captions}) > 2 and any(EOS not in caption for caption in captions)
    weights = np.random.default_rng(2).standard_normal(24).astype(np.float32)
    model.cleargrads()
    loss = model.sampled_loss(x, sampled, weights)
    loss.backward()
    ours = [loss.array, *(param.grad.copy() for _, param in sorted(model.namedparams()))]
    model.cleargrads()
    plain = -sum(float(weight) * log_prob(model, feature, caption)
                 for weight, feature, caption in zip(weights, x, captions, strict=True))
    plain.backward()
    theirs = [plain.array, *(param.grad for _, param in sorted(model.namedparams()))]
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, its, rtol=2e-4, atol=2e-5)


def test_the_mean_gradient_is_that_of_the_expected_reward():
    # By enumeration: sum over captions of p(caption) * reward(caption), for a reward drawn at random.
    model, x, length = random_model(5, hidden=3), features(1), 2
    space = list(all_captions(5, length))
    rewards = dict(zip(space, np.random.default_rng(4).random(len(space)).astype(np.float32), strict=True))
    model.cleargrads()
    expected = -sum(F.exp(log_prob(model, x[0], caption)) * float(rewards[caption]) for caption in space)
    expected.backward()
    exact = np.concatenate([param.grad.ravel() for _, param in sorted(model.namedparams())])
    count, baseline = 40_000, float(-expected.array)    # a baseline changes no mean, and makes it exact sooner
    rows = np.repeat(x, count, axis=0)
    sampled = model.sample(rows, mask_key(0, 0, 0), length)
    weights = np.array([rewards[caption] - baseline for caption in captions_of(sampled)], np.float32) / count
    model.cleargrads()
    model.sampled_loss(rows, sampled, weights).backward()
    estimate = np.concatenate([param.grad.ravel() for _, param in sorted(model.namedparams())])
    # Each sample's gradient differs from the mean by no more than about 1, so the estimate by a few 1 / sqrt(count).
    np.testing.assert_allclose(estimate, exact, atol=4e-3)
    assert np.abs(exact).max() > 0.02


def test_scores_that_are_not_kept_are_computed_again(monkeypatch):
    # The memory of an update is limited: the loss and its gradients are those of scores that were kept.
    model, x = random_model(15), features(24)
    model.out_word.b.array[EOS] += 1.5
    weights, results = np.random.default_rng(2).standard_normal(24).astype(np.float32), []
    for limit in rollout.KEPT_BYTES, 4 * 15 * 30:
        monkeypatch.setattr(rollout, 'KEPT_BYTES', limit)
        sampled = model.sample(x, mask_key(0, 0, 0), 6)
        assert (sampled.scores is None) == (limit < 2000)
        model.cleargrads()
        loss = model.sampled_loss(x, sampled, weights)
        loss.backward()
        results.append([captions_of(sampled), loss.array, *(param.grad.copy() for _, param in
                                                            sorted(model.namedparams()))])
    assert results[0][0] == results[1][0]
    for kept, again in zip(results[0][1:], results[1][1:], strict=True):
        np.testing.assert_allclose(again, kept, rtol=2e-4, atol=1e-5)


class OutputsAndDecoder(ShowAndTell):
    """An architecture that does not record: it has nothing but `outputs` and a decoder."""
    records = False

    def decoder(self):
        return LSTMDecoder(self)

    def outputs(self, features, words, batch_sizes, update_key):
        return super().outputs(features, words, batch_sizes, update_key)


def test_an_architecture_that_does_not_record_samples_and_learns_the_same():
    x, models = features(24), [random_model(15, kind=kind) for kind in (OutputsAndDecoder, ShowAndTell)]
    weights, results = np.random.default_rng(2).standard_normal(24).astype(np.float32), []
    for model in models:
        sampled = model.sample(x, mask_key(0, 0, 0), 6)
        model.cleargrads()
        model.sampled_loss(x, sampled, weights).backward()
        results.append([captions_of(sampled), [caption.tolist() for caption in model.greedy(x, 6)],
                        *(param.grad for _, param in sorted(model.namedparams()))])
    assert results[0][:2] == results[1][:2]
    for ours, theirs in zip(results[0][2:], results[1][2:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize('kind', [ShowAndTell, Merge, OutputsAndDecoder])
def test_sampling_waits_for_the_gpu_once_in_eight_words(kind):
    standin = getattr(cuda.cupy, 'standin', None)
    if standin is None:
        pytest.skip('a GPU does not say how often it was waited for')
    model, x, device = random_model(40, hidden=16, kind=kind), features(12), chainer.get_device('@cupy:0')
    model.out_word.b.array[EOS] = -100                  # no caption ends before it must
    model.to_device(device)
    with chainer.using_device(device):
        x = device.send(x)
        for length, waits in (8, 1), (30, 4), (33, 5):
            for generate in (lambda n: model.sample(x, mask_key(0, 0, 0), n)), (lambda n: model.greedy(x, n)):
                with standin.counted() as counts:
                    generate(length)
                assert len(counts.synchronizations) == waits, length
        sampled = model.sample(x, mask_key(0, 0, 0), 30)
        with standin.no_sync():
            model.sampled_loss(x, sampled, np.ones(12, np.float32)).backward()


@both
@pytest.mark.gpu
def test_the_gpu_draws_what_the_cpu_draws(kind):
    model, x = random_model(40, hidden=16, kind=kind), features(12)
    expected, spoken = model.sample(x, mask_key(0, 0, 0), 9), model.greedy(x, 9)
    weights = np.random.default_rng(2).standard_normal(12).astype(np.float32)
    model.cleargrads()
    model.sampled_loss(x, model.sample(x, mask_key(0, 0, 0), 9), weights).backward()
    gradients = [param.grad.copy() for _, param in sorted(model.namedparams())]
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    with chainer.using_device(device):
        sampled = model.sample(device.send(x), mask_key(0, 0, 0), 9)
        assert captions_of(sampled) == captions_of(expected)
        for own, wanted in zip(model.greedy(device.send(x), 9), spoken, strict=True):
            np.testing.assert_array_equal(own, wanted)
        model.cleargrads()
        model.sampled_loss(device.send(x), sampled, weights).backward()
        for (_, param), gradient in zip(sorted(model.namedparams()), gradients, strict=True):
            np.testing.assert_allclose(chainer.get_device('@numpy').send(param.grad), gradient, rtol=1e-3, atol=1e-5)


@compiled
def _softmax_total(row, bias, out, found):
    found[0] = softmax_row(row, bias, out)[1]


@pytest.mark.parametrize('size', [20, 33])
def test_a_softmax_does_not_depend_on_where_its_arrays_lie(size):
    scores, bias = np.random.default_rng(0).standard_normal((2, size)).astype(np.float32)
    pool, found = np.zeros(10 * size, np.float32), np.zeros(1, np.float32)
    totals = set()
    for gap in range(2 * size):
        for at, to in ((0, size + gap), (size + gap, 0)):
            row, out = pool[at:at + size], pool[to:to + size]
            row[:] = scores
            _softmax_total(row, bias, out, found)
            totals.add(float(found[0]))
    assert len(totals) == 1
