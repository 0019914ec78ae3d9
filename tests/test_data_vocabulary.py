"""Vocabularies: their words, order and counts."""
import json

import numpy as np
import pytest

from chainer_caption import Dataset, InputError, Vocabulary
from chainer_caption.data import TRAINING_SPLITS
from chainer_caption.data.vocabulary import BOS, EOS, UNK, unknown_share


def test_words_seen_often_enough_are_in():
    vocabulary = Vocabulary.from_counts({'four': 4, 'five': 5, 'six': 6}, captions=7, min_count=5)
    assert vocabulary.words == ['<S>', '</S>', '<UNK>', 'five', 'six']
    assert vocabulary.counts == [7, 7, 4, 5, 6]
    assert len(vocabulary) == 5


def test_five_is_the_default():
    assert Vocabulary.from_counts({'four': 4, 'five': 5}, 1).words[3:] == ['five']


def test_order_is_that_of_code_points():
    words = ['zebra', 'Zebra', 'đá', 'da', 'dá', 'ống', '😀', '\uffff', '1', '.', 'a b', 'é', 'e\u0301']
    kept = Vocabulary.from_counts(dict.fromkeys(words, 5), 1).words[3:]
    assert kept == sorted(words, key=lambda word: [ord(c) for c in word])
    assert kept.index('\uffff') < kept.index('😀'), 'code points, not the UTF-16 units that other languages sort by'


def test_restval_counts_and_val_does_not(make_dataset):
    folder = make_dataset(images=0)
    images = [{'filename': str(i), 'imgid': i, 'split': split, 'sentences': [{'tokens': [split, 'all']}]}
              for i, split in enumerate(['train'] * 4 + ['restval'] * 5 + ['val'] * 9 + ['test'] * 9)]
    (folder / 'dataset.json').write_text(json.dumps({'images': images}))
    np.save(folder / 'feats.npy', np.ones((27, 3), np.float32))
    dataset = Dataset(dataset=folder / 'dataset.json', features=folder / 'feats.npy')
    counts, captions = dataset.word_counts(*TRAINING_SPLITS)
    assert (counts, captions) == ({'train': 4, 'restval': 5, 'all': 9}, 9)
    assert Vocabulary.from_counts(counts, captions).words[3:] == ['all', 'restval']


def test_encode_and_decode():
    vocabulary = Vocabulary.from_counts({'a': 9, 'ống': 9}, 9)
    ids = vocabulary.encode(['a', 'never', 'ống', 'A'])
    assert ids.dtype == np.int32 and ids.tolist() == [3, UNK, 4, UNK]
    assert vocabulary.decode(ids) == ['a', '<UNK>', 'ống', '<UNK>']
    assert vocabulary.encode([]).tolist() == []
    assert vocabulary.decode([BOS, EOS]) == ['<S>', '</S>']


def test_special_words_in_captions_are_unknown_words():
    # Otherwise a caption that spells out "</S>" would end there.
    vocabulary = Vocabulary.from_counts({'<S>': 9, '</S>': 8, '<UNK>': 7, 'a': 6}, 10)
    assert vocabulary.words == ['<S>', '</S>', '<UNK>', 'a']
    assert vocabulary.counts == [10, 10, 24, 6]
    assert vocabulary.encode(['<S>', 'a', '</S>', '<UNK>']).tolist() == [UNK, 3, UNK, UNK]


def test_json_round_trip():
    before = Vocabulary.from_counts({'ống': 5, 'tokens with spaces': 6, '😀': 7, '': 8}, 9)
    after = Vocabulary.from_json(json.loads(json.dumps(before.to_json())), 'vocabulary.json')
    assert (after.words, after.counts) == (before.words, before.counts)
    assert after.encode(['ống', '😀', '']).tolist() == before.encode(['ống', '😀', '']).tolist() != [UNK] * 3


def test_log_frequencies_are_those_of_the_next_word():
    vocabulary = Vocabulary.from_counts({'rare': 1, 'a': 4000, 'dog': 1000}, 999, min_count=2)
    log_p = vocabulary.log_frequencies()
    assert log_p.dtype == np.float32 and log_p.shape == (5,)
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)).sum(), 1, rtol=1e-6)
    # <S> is never next; </S> is once a caption; the word left out is UNK's only one.
    np.testing.assert_allclose(np.exp(log_p), np.array([1, 1000, 2, 4001, 1001]) / 6005, rtol=1e-5)


def test_log_frequencies_are_finite_for_words_never_seen():
    assert np.isfinite(Vocabulary(['<S>', '</S>', '<UNK>', 'a'], [0, 0, 0, 0]).log_frequencies()).all()


@pytest.mark.parametrize('value', [
    None, [], {'words': ['<S>', '</S>', '<UNK>']}, {'words': 'abc', 'counts': [1, 1, 1]},
    {'words': ['<S>', '</S>', '<UNK>', 7], 'counts': [1, 1, 1, 1]},
    {'words': ['<S>', '</S>', '<UNK>', 'a'], 'counts': [1, 1, 1]},
    {'words': ['<S>', '</S>', '<UNK>', 'a'], 'counts': [1, 1, 1, 1.5]},
    {'words': ['<S>', '</S>', '<UNK>', 'a'], 'counts': [1, 1, 1, -1]},
    {'words': ['<S>', '</S>', '<UNK>', 'a', 'a'], 'counts': [1, 1, 1, 1, 1]},
    {'words': ['</S>', '<S>', '<UNK>'], 'counts': [1, 1, 1]},
    {'words': ['<S>', '</S>'], 'counts': [1, 1]},
], ids=['null', 'list', 'no counts', 'words are a string', 'word is a number', 'too few counts', 'fraction',
        'negative', 'twice', 'order', 'short'])
def test_what_is_no_vocabulary_is_refused(value):
    with pytest.raises(InputError, match=r'^model/vocabulary\.json: [^\n]+$'):
        Vocabulary.from_json(value, 'model/vocabulary.json')


def test_the_share_of_unknown_words():
    counts = {'rare': 1, 'a': 6, 'dog': 3, '<UNK>': 2}
    assert [unknown_share(counts, least) for least in (1, 2, 4, 9)] == [2 / 12, 3 / 12, 6 / 12, 1]
    assert Vocabulary.from_counts(counts, 5, 4).unknown_share == 6 / 12
    assert unknown_share({}, 1) == 1
