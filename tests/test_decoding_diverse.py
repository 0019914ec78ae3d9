"""Diverse beam search against one that is written plainly."""
import chainer
import numpy as np
import pytest
from test_decoding import features, next_log_probs, random_model

from chainer_caption import InputError
from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.decoding import BeamSearch, DiverseBeamSearch
from chainer_caption.models.decoder import LSTMDecoder


def plain_groups(model, feature, size, groups, diversity, max_length, normalization):
    """The beams of each group after the search: lists of (worth, words, finished), best first."""
    beams = [[(0.0, [], False)] for _ in range(groups)]
    for length in range(1, max_length + 1):
        said = []
        for g in range(groups):
            # (what it is worth in this choice, log-probability, words, finished)
            grown = [(score, score, words, True) for score, words, finished in beams[g] if finished]
            for score, words, finished in beams[g]:
                if not finished:
                    log_prob = score * max(1, length - 1) ** normalization
                    following = next_log_probs(model, feature, words)
                    for w in range(len(following)):
                        if w not in (BOS, UNK):
                            worth = (log_prob + following[w]) / length ** normalization
                            fine = diversity * said.count(w) / length ** normalization if w != EOS else 0
                            grown.append((worth - fine, worth, words if w == EOS else [*words, w], w == EOS))
            kept = sorted(grown, key=lambda entry: -entry[0])[:size]
            beams[g] = sorted((entry[1:] for entry in kept), key=lambda entry: -entry[0])
            said += [words[-1] for _, words, finished in beams[g] if not finished]
    return beams


@pytest.mark.parametrize(('size', 'groups', 'diversity'), [(1, 4, 0.6), (3, 3, 0.5), (2, 5, 5.0), (4, 1, 1.0),
                                                           (2, 2, 0)])
@pytest.mark.parametrize('normalization', [0.0, 0.7])
def test_equals_plain_groups(size, groups, diversity, normalization):
    model, x, length = random_model(25, hidden=12, scale=0.7, end=2.0), features(5), 9
    width = size * groups
    found = DiverseBeamSearch(width, width, normalization, beam_groups=groups, diversity_penalty=diversity,
                              max_length=length)(LSTMDecoder(model), x)
    for feature, hypotheses in zip(x, found, strict=True):
        beams = plain_groups(model, feature, size, groups, diversity, length, normalization)
        # What is cut, and what ends at the greatest length, is the same for all searches.
        expected = {tuple(words): score for beam in beams for score, words, finished in beam if len(words) < length}
        ours = {tuple(h.words): h.log_prob / (len(h.words) + 1) ** normalization for h in hypotheses
                if len(h.words) < length}
        assert ours.keys() == expected.keys()
        for words, score in expected.items():
            assert ours[words] == pytest.approx(score, rel=1e-5)


def test_the_best_of_each_group_is_returned_first():
    model, x = random_model(40, hidden=12, scale=0.7, end=0.5), features(6)
    found = DiverseBeamSearch(20, 5, beam_groups=5, diversity_penalty=2.0, max_length=15)(LSTMDecoder(model), x)
    best = BeamSearch(20, max_length=15)(LSTMDecoder(model), x)
    differ = 0
    for feature, hypotheses, likeliest in zip(x, found, best, strict=True):
        firsts = {tuple(beam[0][1]) for beam in plain_groups(model, feature, 4, 5, 2.0, 15, 0)}
        assert firsts <= {tuple(h.words) for h in hypotheses} and len(hypotheses) == 5
        scores = [h.log_prob for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        differ += len(firsts) > 2 and not firsts <= {tuple(h.words) for h in likeliest}
    assert differ


@pytest.mark.parametrize('penalty', [0.5, 1e8])
def test_log_probabilities_are_the_models_whatever_the_penalty(penalty):
    model, x = random_model(25, hidden=12, scale=0.7, end=1.0), features(3)
    found = DiverseBeamSearch(8, 8, beam_groups=4, diversity_penalty=penalty, max_length=9)(LSTMDecoder(model), x)
    for feature, hypotheses in zip(x, found, strict=True):
        for h in hypotheses:
            said = [*h.words, EOS] if h.finished else h.words
            log_prob = sum(next_log_probs(model, feature, said[:t])[word] for t, word in enumerate(said))
            assert h.log_prob == pytest.approx(log_prob, rel=1e-5, abs=1e-5)


def test_captions_differ_more_than_those_of_a_beam():
    model, x = random_model(40, hidden=12, scale=0.7, end=0.0), features(8)

    def shared(search):
        return np.mean([len({w for h in hypotheses for w in h.words}) for hypotheses in search(LSTMDecoder(model), x)])
    assert shared(DiverseBeamSearch(20, diversity_penalty=1.0, max_length=8)) > shared(BeamSearch(20, max_length=8)) + 1


def test_what_is_kept_from_captions_is_kept_from_groups():
    model, x = random_model(20, end=1), features(6)
    search = DiverseBeamSearch(12, 12, beam_groups=3, min_length=3, no_repeat_ngram=1, max_length=6)
    for hypotheses in search(LSTMDecoder(model), x):
        assert len({tuple(h.words) for h in hypotheses}) == len(hypotheses)
        for h in hypotheses:
            assert 3 <= len(h.words) == len(set(h.words))


@pytest.mark.parametrize(('options', 'word'), [
    ({'width': 20, 'beam_groups': 3}, 'beam_groups 3'), ({'beam_groups': 0}, 'beam_groups 0'),
    ({'diversity_penalty': -1}, 'diversity_penalty -1'),
    ({'diversity_penalty': float('nan')}, 'diversity_penalty nan'), ({'top': 21}, 'top 21')])
def test_contradictory_options_are_refused(options, word):
    with pytest.raises(InputError, match=word):
        DiverseBeamSearch(**options)


@pytest.mark.gpu
def test_gpu_finds_what_the_cpu_finds():
    model, x = random_model(300, hidden=32, scale=0.5), features(20)
    search = DiverseBeamSearch(12, 12, beam_groups=4, no_repeat_ngram=2, max_length=12)
    expected = search(LSTMDecoder(model), x)
    device = chainer.get_device('@cupy:0')
    model.to_device(device)
    with chainer.using_device(device):
        found = search(LSTMDecoder(model), device.send(x))
    assert [[h.words for h in hs] for hs in found] == [[h.words for h in hs] for hs in expected]
