"""Several models as one: a single one changes nothing, and two are the mean of their probabilities."""
import chainer
import numpy as np
import pytest
from test_decoding import features, next_log_probs, random_model

from chainer_caption import Bundle, Captioner, Dataset, InputError, Vocabulary
from chainer_caption.data.vocabulary import EOS
from chainer_caption.decoding import BeamSearch, DiverseBeamSearch, Sampling
from chainer_caption.evaluation.evaluator import Evaluator
from chainer_caption.models import EncoderDecoder, ShowAndTell
from chainer_caption.models.decoder import LSTMDecoder
from chainer_caption.models.ensemble import EnsembleDecoder

SEARCHES = [BeamSearch(width=6, max_length=7), DiverseBeamSearch(width=6, beam_groups=3, max_length=7),
            Sampling(max_length=7, top_p=0.9)]


def words_of(found):
    return [[h.words for h in hypotheses] for hypotheses in found]


@pytest.fixture
def mean_log_probs():
    """Of the word after some words, by two models word by word: `mean_log_probs(models, feature, words)`."""
    return lambda models, feature, words: np.log(np.mean([np.exp(next_log_probs(model, feature, words))
                                                          for model in models], axis=0))


@pytest.mark.parametrize('search', SEARCHES, ids=str)
def test_an_ensemble_of_one_is_the_model(search):
    model, x = random_model(30, scale=0.7), features(9)
    alone, one = search(LSTMDecoder(model), x), search(EnsembleDecoder([LSTMDecoder(model)]), x)
    assert words_of(one) == words_of(alone)
    for ours, theirs in zip(one, alone, strict=True):
        np.testing.assert_allclose([h.log_prob for h in ours], [h.log_prob for h in theirs], rtol=1e-5)


def test_two_models_say_what_the_mean_of_their_probabilities_says(mean_log_probs):
    models, x = [random_model(6, seed=seed, end=-1) for seed in (0, 1)], features(5)
    ensemble = EnsembleDecoder(list(map(LSTMDecoder, models)))
    found = BeamSearch(width=1000, top=6, max_length=4)(ensemble, x)
    for feature, hypotheses in zip(x, found, strict=True):
        captions = []

        def extend(words, log_prob, feature=feature, captions=captions):
            following = mean_log_probs(models, feature, words)
            if len(words) < 4:
                captions.append((log_prob + following[EOS], words))
                for w in range(3, 6):
                    extend([*words, w], log_prob + following[w])
            else:
                ends = following[EOS] > max(following[3:])
                captions.append((log_prob + (following[EOS] if ends else 0), words))
        extend([], 0.0)
        best = sorted(captions, key=lambda c: -c[0])[:6]
        assert [h.words for h in hypotheses] == [words for _, words in best]
        np.testing.assert_allclose([h.log_prob for h in hypotheses], [score for score, _ in best], rtol=1e-5)
    assert words_of(found) != words_of(BeamSearch(width=1000, top=6, max_length=4)(LSTMDecoder(models[0]), x))


def test_scores_that_overflow_in_one_model_find_no_caption():
    models = [random_model(6, seed=seed) for seed in (0, 1)]
    models[1].out_word.b.array[3] = np.nan
    assert BeamSearch()(EnsembleDecoder(list(map(LSTMDecoder, models))), features(2)) == [[], []]


def test_a_word_that_is_impossible_in_all_models_has_no_probability():
    # Decoders of encoders with two places: after them, only the end is possible.
    decoders = [EncoderDecoder(5, 6, 4, max_positions=2, seed=seed).decoder() for seed in (0, 1)]
    x = np.eye(5, dtype=np.float32)
    for hypotheses in BeamSearch(width=50, top=50, max_length=4)(EnsembleDecoder(decoders), x):
        assert max(len(h.words) for h in hypotheses) == 2 and min(h.log_prob for h in hypotheses) > -20


@pytest.fixture
def second(model_dir):
    """Another model of the same dataset."""
    bundle, rng = Bundle.load(model_dir), np.random.default_rng(1)
    for param in bundle.model.params():
        param.array[...] += 0.1 * rng.standard_normal(param.shape)
    return bundle


def test_captioner_of_several(model_dir, dataset_dir, second, tmp_path):
    dataset = Dataset(dataset_dir)
    second.save(tmp_path / 'second')
    captioner = Captioner.load([model_dir, tmp_path / 'second'], images=False)
    found = list(captioner.caption_dataset(dataset, 'test'))
    assert found == list(Captioner([Bundle.load(model_dir), second]).caption_dataset(dataset, 'test'))
    assert found != list(Captioner.load(model_dir, images=False).caption_dataset(dataset, 'test'))
    assert found != list(Captioner(second).caption_dataset(dataset, 'test'))


def test_models_that_do_not_go_together(model_dir, second, tmp_path):
    first = Bundle.load(model_dir)
    words = [*first.vocabulary.words[:-1], 'zebra']
    other_words = Bundle(first.model, Vocabulary(words, first.vocabulary.counts))
    other_size = Bundle(ShowAndTell(17, len(first.vocabulary), 4), first.vocabulary)
    other_provenance = Bundle(first.model, first.vocabulary, {'encoder': 'vgg19', 'preprocessing': 'karpathy'})
    for bundle, why in ((other_words, 'another vocabulary than'), (other_size, 'features of 17 numbers, but'),
                        (other_provenance, 'features of vgg19/karpathy, but')):
        with pytest.raises(InputError, match=f'^model 3: .*{why}.* model 1'):
            Captioner([first, second, bundle])
        bundle.save(tmp_path / 'other')
        with pytest.raises(InputError, match=f'^{tmp_path}/other: .*{why} .*{model_dir}'):
            Captioner.load([model_dir, tmp_path / 'other'], images=False)


@pytest.mark.gpu
def test_gpu_finds_the_perplexity_that_the_cpu_finds(model_dir, dataset_dir, second):
    evaluator = Evaluator(Dataset(dataset_dir), 'test')
    on_cpu, on_gpu = (evaluator.evaluate_model('two', Captioner([Bundle.load(model_dir), second], device), top=3)[0]
                      for device in ('@numpy', '@cupy:0'))
    assert on_gpu.figures == pytest.approx(on_cpu.figures, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize('search', SEARCHES, ids=str)
def test_gpu_says_what_the_cpu_says(search):
    models, x = [random_model(300, hidden=32, scale=0.5, seed=seed) for seed in (0, 1)], features(12)
    expected = search(EnsembleDecoder(list(map(LSTMDecoder, models))), x)
    device = chainer.get_device('@cupy:0')
    with chainer.using_device(device):
        for model in models:
            model.to_device(device)
        found = search(EnsembleDecoder(list(map(LSTMDecoder, models))), device.send(x))
    assert words_of(found) == words_of(expected)
