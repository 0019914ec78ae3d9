"""Learning from text without images before images."""
import collections
import dataclasses
import json

import numpy as np
import pytest
from conftest import left_by_training
from test_parallel import SCRIPTS, figures, together  # noqa: F401 (a fixture)
from test_training import assert_equal_weights, log, weights
from test_training_snapshots import stop_after

from chainer_caption import Bundle, Dataset, InputError, Settings, train
from chainer_caption.data.tokenization import tokenize
from chainer_caption.storage.files import read_json

CAPTIONS = [f'{article} {colour} {shape} {verb}' for article in ('A', 'the', 'one') for colour in (
    'red', 'green', 'blue', 'mauve') for shape in ('circle', 'square', 'heptagon') for verb in ('rolls.', 'is there!')]


@pytest.fixture(scope='module')
def dataset(dataset_dir):
    return Dataset(dataset_dir)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text('\n'.join(CAPTIONS), 'utf-8')
    return path


@pytest.fixture
def settings(text):
    # Five updates an epoch of text, six or more an epoch of images.
    return Settings(architecture='merge', hidden=16, batch_size=16, epochs=2, text=str(text), text_epochs=2)


def test_it_is_training_on_images_without_features(dataset, settings, tmp_path):
    start = tmp_path / 'start'
    train(dataset, start, dataclasses.replace(settings, text=None, text_epochs=1))
    # One caption an image, all features zero.
    blank = tmp_path / 'blank'
    blank.mkdir()
    (blank / 'dataset.json').write_text(json.dumps({'images': [
        {'filename': f'{i}', 'imgid': i, 'split': 'train', 'sentences': [{'tokens': tokenize(caption, 'words')}]}
        for i, caption in enumerate(CAPTIONS)]}), 'utf-8')
    np.save(blank / 'feats.npy', np.zeros((len(CAPTIONS), dataset.feature_size), np.float32))
    plain = Settings(hidden=16, batch_size=16, epochs=2)
    train(Dataset(blank), tmp_path / 'expected', plain, start_from=start)
    train(dataset, tmp_path / 'got', dataclasses.replace(settings, epochs=0), start_from=start)
    assert_equal_weights(tmp_path / 'got', tmp_path / 'expected')
    # The image's embedding keeps its weights; the rest has learned.
    before, after = weights(start), weights(tmp_path / 'got')
    np.testing.assert_array_equal(after['image_vec/W'], before['image_vec/W'])
    assert all((after[name] != before[name]).any() for name in before if name != 'image_vec/W')
    # An entry an epoch.
    losses = [entry['main/loss'] for entry in log(tmp_path / 'expected')]
    assert [entry['main/text_loss'] for entry in log(tmp_path / 'got')] == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize('average', [None, 4])
def test_images_are_learned_as_from_a_model_of_the_text(average, dataset, settings, tmp_path):
    # The optimizer starts again with the images; only the numbers of the updates, keys of the masks, are others.
    plain = Settings(batch_size=16, epochs=2, dropout=0.0, average=average)
    train(dataset, tmp_path / 'text', dataclasses.replace(settings, epochs=0, dropout=0.0))
    train(dataset, tmp_path / 'images', plain, start_from=tmp_path / 'text')
    train(dataset, tmp_path / 'both', dataclasses.replace(settings, dropout=0.0, average=average))
    assert_equal_weights(tmp_path / 'images', tmp_path / 'both')


@pytest.mark.parametrize('update', [3, 9, 10, 11, 13])
def test_resumed_anywhere_it_is_equal_to_never_stopped(update, dataset, settings, tmp_path):
    train(dataset, tmp_path / 'whole', settings)
    train(dataset, tmp_path / 'parts', settings, stop=stop_after(update))
    train(dataset, tmp_path / 'parts', settings, resume=True)
    whole, parts = left_by_training(tmp_path / 'whole'), left_by_training(tmp_path / 'parts')
    for name in whole.keys() & parts.keys() - {'files'}:
        assert parts[name] == whole[name], name
    assert [(entry['epoch'], 'main/text_loss' in entry, 'main/loss' in entry, 'validation/main/loss' in entry)
            for entry in log(tmp_path / 'parts')] == [(0, True, False, False)] * 2 + [(i, False, True, True)
                                                                                      for i in (1, 2)]
    assert 'text loss' in (tmp_path / 'parts' / 'run.html').read_text('utf-8')


def test_a_kill_within_the_text_goes_on_from_a_snapshot(dataset, settings, tmp_path):
    class Killed(BaseException):
        pass

    def kill_at_seven(asked=[]):  # noqa: B006 (it counts its calls)
        asked.append(None)
        if len(asked) == 7:
            raise Killed
        return False
    settings = dataclasses.replace(settings, snapshot_every=3)
    train(dataset, tmp_path / 'whole', settings)
    with pytest.raises(Killed):
        train(dataset, tmp_path / 'parts', settings, stop=kill_at_seven)
    assert (tmp_path / 'parts' / 'snapshot-6.npz').exists()
    train(dataset, tmp_path / 'parts', settings, resume=True)
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    assert log(tmp_path / 'whole') == log(tmp_path / 'parts')


def test_it_is_recorded_and_another_text_is_refused(dataset, settings, text, tmp_path):
    train(dataset, tmp_path / 'model', settings, stop=stop_after(3))
    recorded = read_json(tmp_path / 'model' / 'config.json')['training']
    assert recorded['text'].startswith(f'{len(CAPTIONS)} captions (') and recorded['text_epochs'] == 2
    assert str(tmp_path) not in (tmp_path / 'model' / 'config.json').read_text('utf-8')
    same = tmp_path / 'elsewhere.txt'
    same.write_bytes(text.read_bytes())
    text.write_text('\n'.join([*CAPTIONS, 'one more']), 'utf-8')
    for changed in ({}, {'text': None, 'text_epochs': 1}, {'text': str(same), 'text_epochs': 3}):
        with pytest.raises(InputError, match='was trained with'):
            train(dataset, tmp_path / 'model', dataclasses.replace(settings, **changed), resume=True)
    train(dataset, tmp_path / 'model', dataclasses.replace(settings, text=str(same)), resume=True)


def test_words_of_the_text(dataset, settings, tmp_path):
    plain, grown, more = (set(train(dataset, tmp_path / name, dataclasses.replace(
        settings, epochs=0, min_count=40, text=text, text_epochs=1, text_min_count=least)).vocabulary.words[3:])
        for name, text, least in (('plain', None, None), ('grown', settings.text, None), ('more', settings.text, 18)))
    counts, _ = dataset.word_counts(*dataset.training_splits)
    of_text = collections.Counter(word for caption in CAPTIONS for word in tokenize(caption, 'words'))
    assert plain == {word for word, count in counts.items() if count >= 40}
    assert grown == {word for word, count in counts.items() if count + of_text[word] >= 40} > plain
    assert more == grown | {word for word, count in of_text.items() if count >= 18} >= {'mauve', 'heptagon'}


def test_text_helps_where_captions_are_few(make_dataset, tmp_path):
    few = Dataset(make_dataset(images=6))
    text = tmp_path / 'many.txt'
    text.write_text('\n'.join(' '.join(few.captions.sentence(i)) for i in range(18)), 'utf-8')
    losses = []
    for name, more in (('without', {}), ('with', {'text': str(text), 'text_epochs': 40})):
        train(few, tmp_path / name, Settings(architecture='merge', hidden=16, batch_size=8, epochs=2,
                                             learning_rate=0.01, **more))
        losses.append(log(tmp_path / name)[-1]['validation/main/loss'])
    assert losses[1] < 0.8 * losses[0]


def test_two_processes_train_as_one_does(together, dataset_dir, text, tmp_path):  # noqa: F811
    for size in (1, 2):
        done = together(size, SCRIPTS / 'train.py', dataset_dir, '-o', tmp_path / str(size), '--architecture', 'merge',
                        '--hidden', '16', '--batch-size', '16', '--epochs', '1', '--dropout', '0', '--text', text)
        assert done.returncode == 0 and done.stderr.count('\n') == 1, done.stderr
    for got, expected in zip(figures(tmp_path / '2'), figures(tmp_path / '1'), strict=True):
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
    expected = weights(tmp_path / '1')
    for name, array in weights(tmp_path / '2').items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(('options', 'words'), [
    (('--text-epochs', 2), '--text-epochs 2: only for text'), (('--text-min-count', 2), 'only for text'),
    (('--text', 'none.txt'), 'none.txt: no such file'),
    (('--text', 'TEXT', '--objective', 'self-critical', '-m', 'MODEL'), 'only for cross-entropy'),
    (('--text', 'TEXT', '--finetune', 'all', '-m', 'MODEL', '--images', '.'), 'only for cross-entropy'),
    (('--text', 'TEXT', '--architecture', 'encoder_decoder'), 'encoder_decoder does not read words')])
def test_what_cannot_learn_from_text_is_refused(options, words, refused, dataset_dir, model_dir, text, tmp_path):
    options = [{'TEXT': text, 'MODEL': model_dir}.get(option, option) for option in options]
    assert words in refused('train', dataset_dir, '-o', tmp_path / 'new', *options)
    assert not (tmp_path / 'new' / 'config.json').exists()


def test_any_architecture_that_reads_words_and_a_model_to_start_from(dataset, model_dir, text, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=1, text=str(text)), start_from=model_dir)
    assert Bundle.load(tmp_path / 'model').vocabulary.words == Bundle.load(model_dir).vocabulary.words
    assert log(tmp_path / 'model')[0]['main/text_loss'] > 0
