"""The nearest words of a word, on embeddings whose neighbours are known."""
import json

import numpy as np
import pytest

from chainer_caption import Bundle, InputError, Vocabulary
from chainer_caption.models import ShowAndTell
from chainer_caption.models.neighbours import find_neighbours

# Angles to 'horse' in degrees; the length of a vector does not matter.
ANGLES = {'horse': 0, 'pony': 10, 'donkey': 25, 'dog': 60, 'car': 90, 'sky': 170}


@pytest.fixture(scope='module')
def animals(tmp_path_factory):
    vocabulary = Vocabulary.from_counts({word: 9 + i for i, word in enumerate(ANGLES)} | {'void': 7}, 20)
    model = ShowAndTell(4, len(vocabulary), 2)
    model.word_vec.W.array[:] = 5, 0                        # special words, as near as can be
    for i, word in enumerate(vocabulary.words[3:], 3):
        angle = np.deg2rad(ANGLES.get(word, 0))
        model.word_vec.W.array[i] = np.array([np.cos(angle), np.sin(angle)]) * (0 if word == 'void' else i)
    folder = tmp_path_factory.mktemp('animals') / 'model'
    Bundle(model, vocabulary).save(folder)
    return folder


def test_nearest_first_by_their_angle(animals):
    found = find_neighbours(Bundle.load(animals), 'horse')
    assert [(n.word, n.count) for n in found] == [('pony', 10), ('donkey', 11), ('dog', 12), ('car', 13), ('void', 7),
                                                  ('sky', 14)]
    assert [n.cosine for n in found if n.word in ANGLES] == pytest.approx(
        [np.cos(np.deg2rad(angle)) for angle in list(ANGLES.values())[1:]], abs=1e-6)
    assert [n.word for n in find_neighbours(Bundle.load(animals), 'dog', top=2)] == ['car', 'donkey']


def test_a_word_without_a_direction_is_near_to_none(animals):
    assert all(n.cosine == 0 for n in find_neighbours(Bundle.load(animals), 'void'))


def test_unknown_words_are_answered_with_their_like(animals):
    for word, like in (('hose', 'horse'), ('Horse', 'horse'), ('PONY', 'pony'), ('<UNK>', None), ('zzz', None)):
        with pytest.raises(InputError) as caught:
            find_neighbours(Bundle.load(animals), word)
        assert repr(word) in str(caught.value) and '7 words' in str(caught.value)
        assert f'it has {like}' in str(caught.value) if like else 'it has' not in str(caught.value)


def test_command(call, animals, tmp_path):
    status, out, err = call('neighbours', animals, 'horse', 'sky', '--top', 2)
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, '', 7)
    assert lines[0].split()[0] == 'horse' and lines[1].split() == ['pony', '0.985', '10'] and lines[4].startswith('sky')
    status, out, err = call('neighbours', animals, 'horse', '--top', 1, '--json')
    assert (status, err) == (0, '')
    assert json.loads(out) == {'horse': [{'word': 'pony', 'cosine': pytest.approx(0.9848, abs=1e-4), 'count': 10}]}
    for options, words in (([animals, 'horse', 'hose'], "'hose' is not among"), ([tmp_path, 'horse'], str(tmp_path)),
                           ([animals, 'horse', '--top', 0], '--top 0'), ([animals], 'WORD')):
        status, out, err = call('neighbours', *options)
        assert (status, out, err.count('\n')) == (2, '', 1) and words in err


def test_a_trained_model(call, model_dir):
    status, out, err = call('neighbours', model_dir, 'red', 'circle')
    assert (status, err) == (0, '') and out.count('cosine') == 2
