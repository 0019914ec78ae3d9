"""The metrics against the public COCO caption code, on random corpora, hostile cases and genuine captions."""
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from chainer_caption.evaluation import metrics
from chainer_caption.evaluation.metrics.rouge import lcs_lengths

DATA = pathlib.Path(__file__).parents[2] / 'shared' / 'data'


def coco_scores(references, predictions):
    """What pycocoevalcap says: the corpus's figures and each image's."""
    references = {i: [' '.join(caption) for caption in captions] for i, captions in enumerate(references)}
    predictions = {i: [' '.join(caption)] for i, caption in enumerate(predictions)}
    bleu, bleu_each = Bleu(4).compute_score(references, predictions, verbose=0)
    rouge, rouge_each = Rouge().compute_score(references, predictions)
    cider, cider_each = Cider().compute_score(references, predictions)
    names = ['BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr']
    return (dict(zip(names, [*bleu, rouge, cider], strict=True)),
            dict(zip(names, [*bleu_each, rouge_each, cider_each], strict=True)))


def assert_as_coco(references, predictions):
    expected, expected_each = coco_scores(references, predictions)
    assert metrics.score(references, predictions) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    _, each = metrics.Scorer(references).score(predictions)
    assert list(each) == list(expected_each)
    for name, figures in each.items():
        np.testing.assert_allclose(figures, expected_each[name], rtol=1e-9, atol=1e-9, err_msg=name)


def first_against_rest(name):
    path = DATA / name / 'dataset.json'
    if not path.exists():
        pytest.skip(f'{name} is not here')
    images = json.loads(path.read_text(encoding='utf-8'))['images']
    captions = [[sentence['tokens'] for sentence in image['sentences']] for image in images if image['split'] == 'test']
    return [own[1:] for own in captions], [own[0] for own in captions]


@pytest.mark.parametrize(('images', 'words', 'longest'),
                         [(1, 3, 6), (2, 4, 8), (40, 2, 12), (200, 30, 15), (300, 400, 25), (30, 5, 90)])
def test_random_corpora_score_as_coco(images, words, longest):
    rng = random.Random(images)

    def captions(count, shortest=0):
        # Squared, so that some words are common, and the predictions' words reach past the references'.
        return [[f'w{int(words * rng.random() ** 2 * rng.choice((1, 1.3)))}'
                 for _ in range(rng.randint(shortest, longest))] for _ in range(count)]

    references = [captions(1, shortest=1) + captions(rng.randint(0, 5)) for _ in range(images)]
    assert_as_coco(references, captions(images))


def tokens(*captions):
    return [caption.split() for caption in captions]


ORDINARY = [tokens('a dog runs on the beach', 'the brown dog runs along the sea'),
            tokens('two men play football in a park', 'men on a field', 'a football match in the park'),
            tokens('a red car', 'a red car is parked in front of a house')]


@pytest.mark.parametrize('prediction', [
    '', 'a', 'dog', 'unheard', 'a a a a a a a a', 'the the', 'a dog a dog a dog runs runs', 'the brown dog',
    'a dog runs on the beach', 'the brown dog runs along the sea with a ball and two happy men who play on the beach',
    'nothing here was ever said before', 'con chó chạy trên bãi biển', 'naïve naïve 犬 犬 🐕 🐕 e\u0301 é'])
def test_hostile_predictions_score_as_coco(prediction):
    references = [ORDINARY[0] + tokens('con chó naïve 犬 🐕 chạy trên bãi biển é'), *ORDINARY[1:]]
    rest = tokens('men play in the park', 'a red red house')
    assert_as_coco(references, [prediction.split(), *rest])
    assert_as_coco([captions[:1] for captions in references], [prediction.split(), *rest])
    assert_as_coco(references[:1], [prediction.split()])


@pytest.mark.parametrize(('references', 'prediction'), [
    (['', 'a dog'], ''), (['', 'a dog'], 'a dog'), (['', ''], 'a dog'), (['', ''], ''), (['a'], 'a'), (['a'], ''),
    (['a', 'a b c'], 'a b'), (['a b c', 'a'], 'x y'), (['a b c d e', 'a'], 'a b c'), (['a b', 'a b'], 'a b'),
    (['a'], 'a b c d e f'), (['a b c d e f g h i j k l m n o p q r s t u v w x y z'], 'z y a b')])
def test_hostile_references_score_as_coco(references, prediction):
    assert_as_coco([tokens(*references), *ORDINARY], [prediction.split(), *(captions[0] for captions in ORDINARY)])


def test_captions_that_stand_in_every_image_have_no_weight():
    # A rounding error in the logarithms, in place of zero, would show as a cosine of one.
    assert_as_coco([tokens('a man')] * 49, tokens('a man') * 49)
    assert metrics.score([tokens('a man')] * 49, tokens('a man') * 49)['CIDEr'] == 0


@pytest.mark.parametrize('name', ['flickr8k', 'vi2932'])
def test_genuine_captions_score_as_coco(name):
    assert_as_coco(*first_against_rest(name))


def test_a_scorer_can_be_used_again():
    first = tokens('new words in a dog', 'men in new words', '')
    second = tokens('words new in a park', 'a red car', 'a red red car')
    scorer = metrics.Scorer(ORDINARY)
    for predictions in (first, second, first):
        figures, each = scorer.score(predictions)
        assert figures == metrics.score(ORDINARY, predictions)
        new = metrics.Scorer(ORDINARY).score(predictions)[1]
        assert [own.tolist() for own in each.values()] == [own.tolist() for own in new.values()]


def test_cider_of_some_images_is_what_it_is_among_all():
    rng = random.Random(5)
    references, predictions = ([[[rng.choice('abcdefg') for _ in range(rng.randint(0, 9))] for _ in range(count)]
                               for count in counts] for counts in ([3, 1, 5, 2, 4], [4, 4, 4, 4, 4]))
    scorer = metrics.CiderScorer(references)
    # The public code scores one caption of every image at a time.
    columns = [coco_scores(references, [own[sample] for own in predictions])[1]['CIDEr'] for sample in range(4)]
    images = [4, 4, 0, 2, 4, 0]
    samples = [0, 3, 1, 1, 2, 0]
    figures, each = scorer.score([predictions[p][s] for p, s in zip(images, samples, strict=True)], images)
    expected = [columns[s][p] for p, s in zip(images, samples, strict=True)]
    np.testing.assert_allclose(each['CIDEr'], expected, rtol=1e-9, atol=1e-12)
    assert figures['CIDEr'] == pytest.approx(np.mean(expected)) and max(expected) > 0


def test_metrics_can_be_chosen():
    references, predictions = [[['a', 'dog']], [['a', 'cat']]], [['a', 'dog'], ['a', 'dog']]
    assert list(metrics.score(references, predictions, ['CIDEr'])) == ['CIDEr']
    everything = metrics.score(references, predictions)
    assert list(everything) == ['BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr']
    assert all(type(figure) is float for figure in everything.values())
    with pytest.raises(ValueError, match="no metric 'SPICE'"):
        metrics.score(references, predictions, ['SPICE'])


def test_only_empty_references_score_nothing():
    # Here the COCO code's CIDEr fails: it takes the maximum of no frequencies.
    assert metrics.score([[[]], [[], []]], [['a'], []], ['CIDEr', 'ROUGE-L']) == {'CIDEr': 0, 'ROUGE-L': 0.5}


@pytest.mark.parametrize(('references', 'predictions', 'error', 'message'), [
    ([], [], ValueError, 'no image'),
    ([[['a']], []], [['a'], ['a']], ValueError, 'image 1 has no reference'),
    ([[['a']]], [['a'], ['a']], ValueError, '2 predictions for 1 images'),
    ([['a dog']], [['a', 'dog']], TypeError, 'reference of image 0 is a string'),
    ([[['a', 'dog']]], ['a dog'], TypeError, 'a prediction is a string')])
@pytest.mark.parametrize('scorer', [metrics.Scorer, metrics.BleuScorer, metrics.RougeScorer, metrics.CiderScorer])
def test_wrong_calls_are_refused(scorer, references, predictions, error, message):
    with pytest.raises(error, match=message):
        scorer(references).score(predictions)


def test_longest_common_subsequence_is_that_of_the_table():
    rng = random.Random(0)
    for longest in (1, 5, 20, 150):
        prediction, *references = [[rng.choice('abcd') for _ in range(rng.randint(0, longest))] for _ in range(6)]
        for reference, length in zip(references, lcs_lengths(prediction, references), strict=True):
            table = np.zeros((len(prediction) + 1, len(reference) + 1), int)
            for i, one in enumerate(prediction):
                for j, other in enumerate(reference):
                    table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
            assert length == table[-1, -1]


def test_diversity():
    captions = [['a', 'dog'], ('a', 'dog'), ['a', 'red', 'car'], []]
    assert metrics.diversity(captions, training=[['a', 'dog'], ['a', 'car']], finished=[True, False, True, True]) == {
        'distinct': 0.75, 'vocabulary': 4, 'mean_length': 1.75, 'novel': 0.5, 'unfinished': 0.25}
    assert list(metrics.diversity(captions)) == ['distinct', 'vocabulary', 'mean_length']
    with pytest.raises(ValueError, match='no caption'):
        metrics.diversity([])
    with pytest.raises(ValueError, match='1 marks'):
        metrics.diversity(captions, finished=[True])


def write_tiny_wordnet(folder):
    """Writes a WordNet of one set of synonyms, dog and hound, in WordNet's own format."""
    folder.mkdir(parents=True)
    files = dict.fromkeys(['cntlist.rev', 'index.sense'], '') | {'lexnames': '00\tnoun.animal\t1\n'}
    for part in ('adj', 'adv', 'noun', 'verb'):
        files |= dict.fromkeys([f'index.{part}', f'data.{part}', f'{part}.exc'], '')
    files['data.noun'] = '00000000 00 n 02 dog 0 hound 0 000 | an animal\n'
    files['index.noun'] = 'dog n 1 0 1 0 00000000\nhound n 1 0 1 0 00000000\n'
    for name, text in files.items():
        (folder / name).write_text(text)


def test_meteor_reports_missing_data_and_scores_with_it(tmp_path):
    write_tiny_wordnet(tmp_path / 'there' / 'corpora' / 'wordnet')
    # In a process of its own: NLTK keeps the first WordNet it finds.
    program = '''if True:
        import json, sys
        import nltk
        from chainer_caption.evaluation import metrics
        call = [[['a', 'man'], ['The', 'dogs', 'sleep']], [['a', 'cat']]], [['the', 'hound', 'sleeps'], []], ['METEOR']
        nltk.data.path[:] = [sys.argv[1]]
        lines = [metrics.meteor_missing()]
        try:
            metrics.score(*call)
        except ValueError as error:
            lines.append(str(error))
        nltk.data.path[:] = [sys.argv[2]]
        print(json.dumps([*lines, metrics.meteor_missing(),
                          metrics.MeteorScorer(call[0]).score(call[1])[1]['METEOR'].tolist()]))
    '''
    result = subprocess.run([sys.executable, '-c', program, tmp_path / 'empty', tmp_path / 'there'], check=True,
                            capture_output=True, text=True, env=os.environ | {'NLTK_DATA': ''})
    missing, refusal, nothing, scores = json.loads(result.stdout)
    assert missing == refusal
    assert "nltk.download('wordnet')" in missing
    assert '\n' not in missing
    assert nothing is None
    # Three words of three match in one chunk, by their letters, as synonyms and by their stems.
    assert scores == [pytest.approx(1 - 0.5 / 27), 0.0]
