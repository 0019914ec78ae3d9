"""Captions that are drawn: as the model's distribution says, in any company, and never twice."""
import collections

import chainer
import numpy as np
import pytest
import scipy.stats
from chainer.backends import cuda
from test_decoding import features, next_log_probs, random_model, repeats

from chainer_caption import InputError
from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.decoding import Sampling
from chainer_caption.functions import sample_words, uniforms
from chainer_caption.models.decoder import LSTMDecoder

FILTERS = [{}, {'temperature': 0.6}, {'temperature': 1.7}, {'top_k': 3}, {'top_p': 0.7},
           {'temperature': 1.4, 'top_k': 4, 'top_p': 0.8}]


def filtered(log_probs, suppressed, temperature=1.0, top_k=None, top_p=1.0):
    """The probabilities of words, by sorting: zero for what is not drawn among."""
    scores = log_probs / temperature
    scores[list(suppressed)] = -np.inf
    p = np.exp(scores - scores.max())
    order = np.argsort(-p)
    p[order[top_k:]] = 0 if top_k else p[order[top_k:]]
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return p / p.sum()


def hypotheses_of(found):
    return [[h.words for h in hypotheses] for hypotheses in found]


def keys_of(count):
    return np.random.default_rng(0).integers(0, 2 ** 32, (count, 2), np.uint32)


@pytest.mark.parametrize('options', FILTERS, ids=str)
def test_words_are_drawn_as_their_probabilities_say(options):
    scores = np.array([[0.3, -1, 2, 0.5, -80, 1, 0.9, 0.1]], np.float32)
    bias = np.array([0.2, 0, -1, 0.1, 0, -0.35, 0, 0.4], np.float32)
    count = 30_000
    repeats = np.tile([-1, 7], (count, 1))
    words, log_probs, _ = sample_words(np.repeat(scores, count, axis=0), bias,
                                       uniforms(keys_of(count), np.arange(count)), [1], repeats, **options)
    own = scores[0].astype(float) + bias
    own -= np.log(np.exp(own).sum())
    expected = filtered(own.copy(), (1, 7), **options)
    seen = np.bincount(words, minlength=8)
    assert not seen[expected < 1e-6].any()
    likely = expected >= 1e-6
    assert likely.sum() > 1 and scipy.stats.chisquare(seen[likely], count * expected[likely]).pvalue > 1e-3
    np.testing.assert_allclose(log_probs, own[words], rtol=1e-5)


@pytest.mark.parametrize('options', [{}, {'temperature': 0.7, 'top_k': 3, 'top_p': 0.9, 'no_repeat_ngram': 1}], ids=str)
def test_captions_are_drawn_as_the_model_would_say_them(options):
    # The first caption of each of many images whose features are all but the same.
    model, count = random_model(6, scale=0.5, end=0.5), 8000
    x = np.repeat(features(1), count, axis=0) * (1 + 1e-6 * np.arange(count, dtype=np.float32)[:, None])
    found = Sampling(top=1, max_length=2, **options)(LSTMDecoder(model), x)
    seen = collections.Counter(tuple(h.words) for h, in found)
    repeated = options.get('no_repeat_ngram')
    filters = {name: value for name, value in options.items() if name != 'no_repeat_ngram'}
    expected = {}

    def extend(words, p):
        if len(words) == 2:
            expected[tuple(words)] = p
            return
        suppressed = [BOS, UNK, *(w for w in range(3, 6) if repeated and repeats([*words, w], repeated))]
        following = filtered(next_log_probs(model, x[0], words), suppressed, **filters)
        expected[tuple(words)] = p * following[EOS]
        for w in range(3, 6):
            extend([*words, w], p * following[w])
    extend([], 1.0)
    possible = [words for words, p in expected.items() if p > 0]
    assert seen.keys() <= {*possible} and len(possible) > 3
    assert scipy.stats.chisquare([seen[words] for words in possible],
                                 [count * expected[words] for words in possible]).pvalue > 1e-3


def test_the_log_probability_is_the_models_own():
    model, x = random_model(12, end=0), features(3)
    kinds = set()
    for feature, hypotheses in zip(x, Sampling(temperature=0.5, top_p=0.8, max_length=4)(LSTMDecoder(model), x),
                                   strict=True):
        assert [h.log_prob for h in hypotheses] == sorted((h.log_prob for h in hypotheses), reverse=True)
        for h in hypotheses:
            said = [*h.words, EOS] if h.finished else h.words
            expected = sum(next_log_probs(model, feature, said[:t])[w] for t, w in enumerate(said))
            assert h.log_prob == pytest.approx(expected, rel=1e-5)
            kinds.add(h.finished)
    assert kinds == {True, False}


def test_what_is_drawn_does_not_depend_on_its_company(monkeypatch):
    model, x = random_model(40, scale=0.7), features(23)
    decoder, search = LSTMDecoder(model), Sampling(temperature=0.8, max_length=9)
    together = hypotheses_of(search(decoder, x))
    assert together == [hypotheses_of(search(decoder, row[None]))[0] for row in x]
    assert together[::-1] == hypotheses_of(search(decoder, x[::-1].copy()))
    monkeypatch.setattr('chainer_caption.decoding.search._CPU_BYTES', 4 * 5 * 40 * 4)    # four images at a time
    assert together == hypotheses_of(search(decoder, x))
    assert together != hypotheses_of(Sampling(temperature=0.8, max_length=9, seed=1)(decoder, x))


def test_captions_of_a_image_differ():
    model, x = random_model(30, scale=0.7, end=1), features(20)
    for hypotheses in Sampling(top=20, temperature=0.7, max_length=6)(LSTMDecoder(model), x):
        assert len({tuple(h.words) for h in hypotheses}) == len(hypotheses) == 20
    # Two words, or none: three captions are all that there are.
    few = random_model(5, scale=0.3, end=0)
    for hypotheses in Sampling(top=7, max_length=1)(LSTMDecoder(few), x):
        assert sorted(h.words for h in hypotheses) == [[], [3], [4]]


def test_a_word_that_is_all_but_certain_is_not_drawn_again_for_ever():
    model = random_model(6, end=60)
    assert hypotheses_of(Sampling()(LSTMDecoder(model), features(2))) == [[[]], [[]]]


def test_what_is_kept_from_captions_is_not_drawn():
    model, x = random_model(8, end=2), features(30)
    for hypotheses in Sampling(min_length=2, no_repeat_ngram=1, max_length=5)(LSTMDecoder(model), x):
        assert hypotheses
        for h in hypotheses:
            assert 2 <= len(h.words) == len(set(h.words)) and not {BOS, UNK} & set(h.words)
    assert any(UNK in h.words for hs in Sampling(allow_unk=True)(LSTMDecoder(model), x) for h in hs)


def test_of_scores_that_are_no_numbers_nothing_is_drawn():
    model = random_model(6)
    model.out_word.b.array[3] = np.nan
    assert Sampling()(LSTMDecoder(model), features(2)) == [[], []]


@pytest.mark.parametrize(('options', 'word'), [
    ({'top': 0}, 'top 0'), ({'temperature': 0}, 'temperature 0'), ({'temperature': float('nan')}, 'temperature'),
    ({'top_k': 0}, 'top_k 0'), ({'top_p': 0}, 'top_p 0'), ({'top_p': 1.5}, 'top_p 1.5'),
    ({'seed': -1}, 'seed -1'), ({'max_length': 0}, 'max_length 0')])
def test_impossible_options_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        Sampling(**options)


@pytest.mark.gpu
@pytest.mark.parametrize('options', [*FILTERS, {'no_repeat_ngram': 1, 'min_length': 3}], ids=str)
def test_gpu_draws_what_the_cpu_draws(options):
    model, x = random_model(300, hidden=32, scale=0.5), features(20)
    search = Sampling(max_length=12, **options)
    expected = search(LSTMDecoder(model), x)
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    with chainer.using_device(device):
        found = search(LSTMDecoder(model), device.send(x))
    assert hypotheses_of(found) == hypotheses_of(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose([h.log_prob for h in ours], [h.log_prob for h in theirs], rtol=1e-4)


@pytest.mark.gpu
def test_a_step_waits_for_the_gpu_once():
    standin = getattr(cuda.cupy, 'standin', None)
    if standin is None:
        pytest.skip('a GPU does not say how often it was waited for')
    model = random_model(300, end=-100)
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    waits = []
    with chainer.using_device(device):
        decoder, x = LSTMDecoder(model), device.send(features(5))
        for length in (5, 9):
            with standin.counted() as counted:
                Sampling(max_length=length, top_k=50, top_p=0.9, no_repeat_ngram=1)(decoder, x)
            waits.append(len(counted.synchronizations))
    assert waits[1] - waits[0] == 4


@pytest.mark.gpu
def test_of_scores_that_are_no_numbers_the_gpu_draws_nothing():
    model = random_model(6)
    model.out_word.b.array[3] = np.nan
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    with chainer.using_device(device):
        assert Sampling()(LSTMDecoder(model), device.send(features(2))) == [[], []]
