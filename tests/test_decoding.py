"""Beam search against exhaustive search, and against a beam written plainly."""
import dataclasses
import doctest
import functools

import chainer
import chainer.functions as F
import numpy as np
import pytest
from chainer.backends import cuda

from chainer_caption import InputError
from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.decoding import BeamSearch, beam
from chainer_caption.models import ShowAndTell
from chainer_caption.models.decoder import LSTMDecoder

D = 7


def random_model(vocabulary_size, hidden=8, seed=0, scale=1.0, end=0.5):
    rng = np.random.default_rng(seed)
    model = ShowAndTell(D, vocabulary_size, hidden)
    for param in model.params():
        param.array[...] = scale * rng.standard_normal(param.shape)
    model.out_word.b.array[EOS] += end
    return model


def features(images, seed=1):
    return np.random.default_rng(seed).random((images, D), np.float32)


def next_log_probs(model, feature, words):
    """The log-probabilities of the word after `words`, by Chainer's links, one caption, one word at a time."""
    model.lstm.reset_state()
    model.lstm(model.image_vec(feature[None]))
    for word in [BOS, *words]:
        h = model.lstm(model.word_vec(np.array([word], np.int32)))
    return F.log_softmax(model.out_word(h)).array[0].astype(np.float64)


def repeats(words, n):
    """Whether so many words in a row stand twice in a caption."""
    grams = [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
    return n > 0 and len(set(grams)) < len(grams)


def all_captions(following, feature, max_length, allow_unk, normalization, min_length=0, no_repeat=0):
    """Every caption that there is: `(score, words, finished)`, best first; `following(feature, words)` are the
    log-probabilities of the word after some others."""
    captions = []

    def extend(words, log_prob):
        after = following(feature, words)
        ended = log_prob + after[EOS]
        allowed = [w for w in range(len(after)) if w != BOS and (allow_unk or w != UNK)
                   and (w == EOS or not repeats([*words, w], no_repeat))]
        if len(words) < max_length:
            if len(words) >= min_length:
                captions.append((ended / (len(words) + 1) ** normalization, words, True))
            for word in allowed:
                if word != EOS:
                    extend([*words, word], log_prob + after[word])
        elif max(allowed, key=lambda w: after[w]) == EOS:
            captions.append((ended / (len(words) + 1) ** normalization, words, True))
        else:
            captions.append((log_prob / len(words) ** normalization, words, False))

    extend([], 0.0)
    return sorted(captions, key=lambda c: -c[0])


def score_of(hypothesis, normalization):
    return hypothesis.log_prob / (len(hypothesis.words) + hypothesis.finished) ** normalization


@pytest.mark.parametrize('allow_unk', [False, True])
@pytest.mark.parametrize('normalization', [0.0, 0.7])
def test_a_beam_as_wide_as_the_space_finds_what_exhaustive_search_finds(allow_unk, normalization):
    model, x = random_model(5, end=-3), features(4)
    search = BeamSearch(width=1000, top=7, max_length=4, allow_unk=allow_unk, length_normalization=normalization)
    found = search(LSTMDecoder(model), x)
    kinds = set()
    for feature, hypotheses in zip(x, found, strict=True):
        expected = all_captions(functools.partial(next_log_probs, model), feature, 4, allow_unk, normalization)[:7]
        assert [h.words for h in hypotheses] == [words for _, words, _ in expected]
        assert [h.finished for h in hypotheses] == [finished for _, _, finished in expected]
        np.testing.assert_allclose([score_of(h, normalization) for h in hypotheses], [s for s, _, _ in expected],
                                   rtol=1e-5)
        kinds |= {h.finished for h in hypotheses}
    assert kinds == {True, False}                       # both ways to end have been seen


@pytest.mark.parametrize(('min_length', 'no_repeat'), [(2, 0), (0, 1), (0, 2), (3, 2), (4, 1)])
@pytest.mark.parametrize('normalization', [0.0, 0.7])
def test_lengths_and_repetitions_as_exhaustive_search_has_them(min_length, no_repeat, normalization):
    model, x = random_model(6, end=1), features(4)
    search = BeamSearch(width=2000, top=99, max_length=5, length_normalization=normalization)
    without = search(LSTMDecoder(model), x)
    found = dataclasses.replace(search, min_length=min_length, no_repeat_ngram=no_repeat)(LSTMDecoder(model), x)
    for feature, hypotheses in zip(x, found, strict=True):
        expected = all_captions(functools.partial(next_log_probs, model), feature, 5, False, normalization, min_length,
                                no_repeat)[:99]
        assert [h.words for h in hypotheses] == [words for _, words, _ in expected]
        np.testing.assert_allclose([score_of(h, normalization) for h in hypotheses], [s for s, _, _ in expected],
                                   rtol=1e-5)
    assert found != without


def test_nothing_is_left_to_say():
    model = random_model(5)                             # two words that may be said, each once
    assert BeamSearch(min_length=3, no_repeat_ngram=1)(LSTMDecoder(model), features(2)) == [[], []]


def plain_beam(model, feature, width, top, max_length):
    """The search as a textbook has it: lists, sorting, one image, no early stop but the exact one."""
    beam = [(0.0, [], False)]
    for _ in range(max_length):
        grown = [b for b in beam if b[2]]
        for log_prob, words, finished in beam:
            if not finished:
                following = next_log_probs(model, feature, words)
                grown += [(log_prob + following[w], words if w == EOS else [*words, w], w == EOS)
                          for w in range(len(following)) if w not in (BOS, UNK)]
        beam = sorted(grown, key=lambda b: -b[0])[:width]
        if all(finished for _, _, finished in beam[:top]):
            break
    return beam[:top]


@pytest.mark.parametrize('width', [1, 2, 5, 20, 50])
def test_equals_a_plain_beam(width):
    model, x = random_model(40, hidden=12, scale=0.7, end=2.0), features(6)
    top = min(5, width)
    found = BeamSearch(width=width, top=top, max_length=12)(LSTMDecoder(model), x)
    for feature, hypotheses in zip(x, found, strict=True):
        expected = plain_beam(model, feature, width, top, 12)
        assert [h.words for h in hypotheses if h.finished] == [words for _, words, finished in expected if finished]
        np.testing.assert_allclose([h.log_prob for h in hypotheses if h.finished],
                                   [s for s, _, finished in expected if finished], rtol=1e-5)


def test_width_one_is_greedy():
    model, x = random_model(30, seed=3), features(5)
    for feature, (hypothesis,) in zip(x, BeamSearch(width=1, top=1, max_length=10)(LSTMDecoder(model), x), strict=True):
        words = []
        while len(words) < 10:
            following = next_log_probs(model, feature, words)
            following[[BOS, UNK]] = -np.inf
            if following.argmax() == EOS:
                break
            words.append(int(following.argmax()))
        assert hypothesis.words == words


def test_many_images_find_what_each_finds_alone(monkeypatch):
    model, x = random_model(40, scale=0.7), features(23)
    decoder = LSTMDecoder(model)
    search = BeamSearch(width=6, top=3, max_length=9)
    together = search(decoder, x)
    alone = [search(decoder, row[None])[0] for row in x]
    monkeypatch.setattr('chainer_caption.decoding.search._CPU_BYTES', 4 * 6 * 40 * 4)      # four images at a time
    in_fours = search(decoder, x)
    for others in (alone, in_fours):
        assert [[h.words for h in hs] for hs in others] == [[h.words for h in hs] for hs in together]
        np.testing.assert_allclose([[h.log_prob for h in hs] for hs in others],
                                   [[h.log_prob for h in hs] for hs in together], rtol=1e-5)


def test_unk_is_said_only_when_allowed_and_leaves_its_probability_to_nobody():
    model, x = random_model(6), features(4)
    model.out_word.b.array[UNK] += 5
    decoder = LSTMDecoder(model)
    without = BeamSearch(width=20, top=5, max_length=5)(decoder, x)
    assert not any(UNK in h.words for hypotheses in without for h in hypotheses)
    assert any(UNK in h.words for hypotheses in BeamSearch(max_length=5, allow_unk=True)(decoder, x)
               for h in hypotheses)
    best = without[0][0]
    log_prob = sum(next_log_probs(model, x[0], best.words[:t])[w] for t, w in enumerate(best.words))
    if best.finished:
        log_prob += next_log_probs(model, x[0], best.words)[EOS]
    assert best.log_prob == pytest.approx(log_prob, rel=1e-5)


def test_captions_that_never_end_are_cut_with_all_their_words():
    model = random_model(6, end=-100)
    for hypotheses in BeamSearch(width=5, top=2, max_length=7)(LSTMDecoder(model), features(3)):
        assert [(len(h.words), h.finished) for h in hypotheses] == [(7, False)] * 2
        assert hypotheses[0].log_prob_per_token == pytest.approx(hypotheses[0].log_prob / 7)


def test_a_caption_of_the_greatest_length_that_ends_there_is_finished():
    model = random_model(8, seed=5)
    whole = BeamSearch(width=1, top=1, max_length=30)(LSTMDecoder(model), features(20))
    for length in (1, 2, 3):
        at_length = [i for i, (h,) in enumerate(whole) if h.finished and len(h.words) == length]
        for i in at_length:
            (again,), = BeamSearch(width=1, top=1, max_length=length)(LSTMDecoder(model), features(20)[i:i + 1])
            assert again.finished
            assert again.words == whole[i][0].words
            assert again.log_prob_per_token == pytest.approx(again.log_prob / (length + 1))


def test_a_space_smaller_than_the_beam_gives_what_there_is():
    model = random_model(4, end=0)                      # <S>, </S>, <UNK> and one word
    found, = BeamSearch(width=20, top=20, max_length=1)(LSTMDecoder(model), features(1))
    assert sorted(h.words for h in found) == [[], [3]]


def test_the_word_that_begins_every_caption_is_never_said():
    model = random_model(6)
    model.out_word.b.array[BOS] += 5
    for allow_unk in (False, True):
        for hypotheses in BeamSearch(max_length=5, allow_unk=allow_unk)(LSTMDecoder(model), features(4)):
            assert not any(BOS in h.words for h in hypotheses)


@pytest.mark.parametrize('options', [{'width': 3, 'top': 4}, {'top': 0}, {'max_length': 0},
                                     {'length_normalization': -1}, {'width': 0}, {'length_normalization': 400},
                                     {'length_normalization': float('nan')}, {'min_length': -1},
                                     {'min_length': 9, 'max_length': 8}, {'no_repeat_ngram': -1}])
def test_contradictory_options_are_refused(options):
    with pytest.raises(InputError):
        BeamSearch(**options)


def test_a_search_is_a_value():
    search = BeamSearch(width=3)
    assert search == BeamSearch(3, 3) != BeamSearch(4) and search.top == 3 and BeamSearch().top == 5
    assert BeamSearch(**dataclasses.asdict(search)) == search
    with pytest.raises(dataclasses.FrozenInstanceError):
        search.width = 5


def test_large_normalizations_still_compare():
    # Whatever passes the check is not rounded to nothing: the longest caption wins, and its score is sound.
    model, x = random_model(6, end=1), features(3)
    for hypotheses in BeamSearch(width=50, top=5, max_length=9, length_normalization=60)(LSTMDecoder(model), x):
        assert {len(h.words) for h in hypotheses} == {9} and all(np.isfinite(h.log_prob) for h in hypotheses)


def test_the_worked_example_of_the_beams():
    assert doctest.testmod(beam) == (0, 6)


def test_a_decoder_refuses_words_that_the_model_does_not_have():
    decoder = LSTMDecoder(random_model(6))
    with pytest.raises(IndexError, match='the model has 6'):
        decoder.step(decoder.start(features(2)), np.arange(2), np.array([0, 6]))


@pytest.mark.gpu
@pytest.mark.parametrize('options', [{}, {'min_length': 9, 'no_repeat_ngram': 2}], ids=str)
def test_gpu_finds_what_the_cpu_finds(options):
    model, x = random_model(300, hidden=32, scale=0.5), features(50)
    search = BeamSearch(max_length=15, **options)
    expected = search(LSTMDecoder(model), x)
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    with chainer.using_device(device):
        found = search(LSTMDecoder(model), device.send(x))
    assert [[h.words for h in hs] for hs in found] == [[h.words for h in hs] for hs in expected]
    np.testing.assert_allclose([[h.log_prob for h in hs] for hs in found],
                               [[h.log_prob for h in hs] for hs in expected], rtol=1e-4)


@pytest.mark.gpu
def test_gpu_searches_groups_that_fit_into_its_memory(room):
    model, x = random_model(300, hidden=32, scale=0.5), features(7)
    expected = BeamSearch(max_length=6)(LSTMDecoder(model), x)
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    with chainer.using_device(device):
        decoder, x = LSTMDecoder(model), device.send(x)
        room(8 * 2 * 4 * 20 * 300)                      # an eighth of it: the scores of two images
        found = BeamSearch(max_length=6)(decoder, x)
    assert [[h.words for h in hs] for hs in found] == [[h.words for h in hs] for hs in expected]


@pytest.mark.gpu
@pytest.mark.parametrize('no_repeat', [0, 1])
def test_a_step_waits_for_the_gpu_once(no_repeat):
    standin = getattr(cuda.cupy, 'standin', None)
    if standin is None:
        pytest.skip('a GPU does not say how often it was waited for')
    model, x = random_model(300, end=-100), features(5)
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    counts = []
    with chainer.using_device(device):
        decoder, x = LSTMDecoder(model), device.send(x)
        for length in (5, 9):
            with standin.counted() as counted:
                BeamSearch(max_length=length, no_repeat_ngram=no_repeat)(decoder, x)
            counts.append((sum(counted.launches.values()), len(counted.uploads), len(counted.synchronizations)))
    (launches, uploads, waits), = np.diff(counts, axis=0) / 4
    assert waits == 1
    assert uploads == 2
    assert launches <= 25
