"""Words that are added to a model's vocabulary."""
import dataclasses
import json

import numpy as np
import pytest
from test_training import SMALL, assert_equal_weights, log, weights
from test_training_snapshots import stop_after

from chainer_caption import Bundle, Captioner, Dataset, InputError, Settings, Vocabulary, train
from chainer_caption.captioning.captioner import PRETRAINED, model_folder

EXTEND = Settings(batch_size=16, epochs=2, score_every=0, extend_vocabulary=True)


def with_words(folder, *words):
    """Puts words in front of each caption of a dataset."""
    path = folder / 'dataset.json'
    data = json.loads(path.read_text('utf-8'))
    for image in data['images']:
        for sentence in image['sentences']:
            sentence['tokens'] = [*words, *sentence['tokens']]
    path.write_text(json.dumps(data), 'utf-8')
    return folder


@pytest.fixture(scope='module')
def dataset(dataset_dir):
    return Dataset(dataset_dir)


@pytest.fixture
def mine(make_dataset, tmp_path):
    return Dataset(with_words(make_dataset(tmp_path / 'mine', seed=3), 'one', 'mauve'))


def test_an_extended_vocabulary():
    old = Vocabulary.from_counts({'b': 9, 'd': 7, 'rare': 1}, 10)
    new = old.extended({'a': 2, 'b': 5, 'c': 1, 'e': 4, '<UNK>': 3}, 6)
    assert new.words == [*old.words, 'a', 'e']
    assert new.counts == [16, 16, 1 + 1 + 3, 14, 7, 2, 4]
    assert old.words == ['<S>', '</S>', '<UNK>', 'b', 'd'] and old.counts[2] == 1
    assert old.extended({'c': 2}, 1, min_count=3).words == old.words
    assert old.extended({'c': 1}, 1, 2, {'c': 1, 'f': 8}).words == [*old.words, 'c']


@pytest.mark.parametrize('architecture', ['show_and_tell', 'merge', 'encoder_decoder'])
def test_old_words_keep_their_weights_and_new_ones_are_said(architecture, dataset, mine, tmp_path):
    old = train(dataset, tmp_path / 'old', Settings(architecture=architecture, **SMALL, epochs=2))
    new = train(mine, tmp_path / 'new', dataclasses.replace(EXTEND, epochs=0), start_from=tmp_path / 'old')
    count = len(old.vocabulary)
    assert new.vocabulary.words == [*old.vocabulary.words, 'mauve', 'one']
    before, after = weights(tmp_path / 'old'), weights(tmp_path / 'new')
    for name in before:
        axis = [range(size) for size in before[name].shape]
        np.testing.assert_array_equal(after[name][np.ix_(*axis)], before[name], err_msg=name)
    W, b = after['out_word/W'], after['out_word/b']
    np.testing.assert_allclose(W[count:], np.repeat([W[3:count].mean(axis=0)], 2, axis=0), rtol=1e-5, atol=1e-7)
    # As likely as its frequency: as far above the old words as its count is, on average of a token.
    counts, _ = mine.word_counts(*mine.training_splits)
    known = [word for word in counts if word not in ('one', 'mauve')]
    above = np.average([b[old.vocabulary.encode([word])[0]] - np.log(counts[word]) for word in known],
                       weights=[counts[word] for word in known])
    np.testing.assert_allclose(b[count:] - np.log(counts['one']), [above] * 2, rtol=1e-4)
    train(mine, tmp_path / 'said', dataclasses.replace(EXTEND, epochs=12, learning_rate=0.02, dropout=0.1),
          start_from=tmp_path / 'old')
    results = Captioner.load(tmp_path / 'said', images=False).caption_dataset(mine, 'test')
    assert all(result.captions[0].tokens[:2] == ['one', 'mauve'] for result in results)


def test_without_new_words_it_is_as_without_the_option(dataset, make_dataset, model_dir, tmp_path):
    other = Dataset(make_dataset(tmp_path / 'other', seed=3))
    train(other, tmp_path / 'plain', dataclasses.replace(EXTEND, extend_vocabulary=False), start_from=model_dir)
    train(other, tmp_path / 'extended', EXTEND, start_from=model_dir)
    assert_equal_weights(tmp_path / 'plain', tmp_path / 'extended')
    assert Bundle.load(tmp_path / 'plain').vocabulary.words == Bundle.load(tmp_path / 'extended').vocabulary.words


@pytest.mark.parametrize('named', [True, False])
def test_resumed_it_is_equal_to_never_stopped(named, mine, model_dir, tmp_path):
    again = model_dir if named else None
    train(mine, tmp_path / 'whole', EXTEND, start_from=model_dir, resume=True)          # there is nothing yet
    train(mine, tmp_path / 'parts', EXTEND, start_from=model_dir, stop=stop_after(3))
    with pytest.raises(InputError, match='extend_vocabulary True, not False'):
        train(mine, tmp_path / 'parts', dataclasses.replace(EXTEND, extend_vocabulary=False), resume=True)
    train(mine, tmp_path / 'parts', EXTEND, start_from=again, resume=True)
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    assert log(tmp_path / 'whole') == log(tmp_path / 'parts')


def test_what_is_refused(mine, model_dir, refused, tmp_path):
    folder = mine.dataset_path.parent
    for options, words in (
            ((), 'name one to start from (-m)'), (('-m', model_dir / 'weights.npz'), 'has weights alone'),
            (('-m', model_dir, '--objective', 'self-critical'), '--extend-vocabulary True: self-critical cannot')):
        assert words in refused('train', folder, '-o', tmp_path / 'new', '--extend-vocabulary', *options)
    train(mine, tmp_path / 'new', EXTEND, start_from=model_dir)
    before = (tmp_path / 'new' / 'vocabulary.json').read_bytes()
    assert 'choose another folder' in refused('train', folder, '-o', tmp_path / 'new', '-m', tmp_path / 'new',
                                              '--overwrite', '--extend-vocabulary', '--min-count', 1)
    assert (tmp_path / 'new' / 'vocabulary.json').read_bytes() == before


def test_the_min_count_decides(mine, model_dir, tmp_path):
    counts, _ = mine.word_counts(*mine.training_splits)
    found = train(mine, tmp_path / 'new', dataclasses.replace(EXTEND, epochs=0, min_count=counts['mauve'] + 1),
                  start_from=model_dir)
    assert found.vocabulary.words == Bundle.load(model_dir).vocabulary.words


def test_the_pretrained_model_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_folder('pretrained') == PRETRAINED and str(model_folder('x/pretrained')) == 'x/pretrained'
    assert Captioner.load('pretrained', images=False).bundle.model.architecture == 'merge'
    (tmp_path / 'pretrained').mkdir()
    assert str(model_folder('pretrained')) == 'pretrained'


def test_going_on_from_the_pretrained_model(make_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Bundle.load(PRETRAINED)
    folder = with_words(make_dataset(tmp_path / 'wide', dim=1280, images=12), 'zyzzyva')
    (folder / 'vgg_feats.mat.json').write_text(json.dumps(own.provenance))
    new = train(Dataset(folder), tmp_path / 'new', dataclasses.replace(EXTEND, epochs=1), start_from='pretrained')
    assert new.vocabulary.words[:len(own.vocabulary)] == own.vocabulary.words and 'zyzzyva' in new.vocabulary.words
