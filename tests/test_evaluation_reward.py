"""The reward of self-critical training against the public COCO code."""
import random

import numpy as np
import pytest
from test_evaluation_metrics import coco_scores, first_against_rest

from chainer_caption.evaluation.metrics.cider import CiderReward, CiderTables
from chainer_caption.evaluation.metrics.ngrams import lengths_of, word_numbers

WORDS = ['<S>', '</S>', '<UNK>', *'abcdefghij', 'unheard', 'unseen']


def captions(rng, count, shortest=0, longest=12, words=WORDS[3:-2]):
    return [[rng.choice(words) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]


def reward_of(references, words):
    numbers, captions = {}, [caption for own in references for caption in own]
    built = CiderTables.build(word_numbers(captions, numbers), lengths_of(captions), lengths_of(references))
    return CiderReward(CiderTables(built), numbers, words)


def ids(caption):
    return np.array([WORDS.index(word) for word in caption], np.int32)


@pytest.mark.parametrize('seed', range(4))
def test_rewards_are_those_of_the_public_code(seed):
    rng = random.Random(seed)
    # References have words that the vocabulary has not, and the other way round; ends are words like others.
    references = [[[*caption, '</S>'] for caption in captions(rng, rng.randint(1, 5), words=[*WORDS[3:-3], 'rare'])]
                  for _ in range(25)]
    said = captions(rng, 25, words=WORDS[3:])
    said = [caption + ['</S>'] * (rng.random() < 0.8) for caption in said]
    _, expected = coco_scores(references, said)
    reward = reward_of(references, WORDS)
    found = reward([ids(caption) for caption in said], range(25))
    np.testing.assert_allclose(found, expected['CIDEr'], rtol=1e-9, atol=1e-9)
    assert max(found) > 0.5
    order = [3, 3, 24, 0, 3]
    np.testing.assert_array_equal(reward([ids(said[i]) for i in order], order), found[order])


def test_an_unfinished_caption_scores_less():
    references = [[['a', 'b', 'c', '</S>']], [['a', 'd', 'e', '</S>']], [['f', '</S>']]]
    ended, cut = reward_of(references, WORDS)([ids(['a', 'b', 'c', '</S>']), ids(['a', 'b', 'c'])], [0, 0])
    assert ended > cut > 0


def test_genuine_captions():
    references, said = first_against_rest('flickr8k')
    references = [[[*caption, '</S>'] for caption in own] for own in references]
    said = [[*caption, '</S>'] for caption in said]
    words = sorted({word for caption in said for word in caption})
    places = {word: i for i, word in enumerate(words)}
    found = reward_of(references, words)([np.array([places[w] for w in caption]) for caption in said],
                                           range(len(said)))
    np.testing.assert_allclose(found, coco_scores(references, said)[1]['CIDEr'], rtol=1e-6, atol=1e-9)
