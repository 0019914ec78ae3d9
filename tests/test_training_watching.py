"""Watching a training: scores of free-running captions, the best epoch by them, samples, curves, events."""
import importlib.util
import json
import os
import types
import warnings

import chainer
import numpy as np
import pytest
from PIL import Image
from test_training import SMALL, assert_equal_weights, log, validation_loss, weights

from chainer_caption import Captioner, Dataset, InputError, Settings, train
from chainer_caption.decoding import BeamSearch
from chainer_caption.evaluation.evaluator import Evaluator
from chainer_caption.training.extensions import CaptionScores, Events

CIDER, BLEU4, LOSS = 'validation/main/cider', 'validation/main/bleu4', 'validation/main/loss'


@pytest.fixture
def dataset(make_dataset):
    return Dataset(make_dataset())


@pytest.fixture
def without_val(make_dataset, tmp_path):
    return Dataset(make_dataset(tmp_path / 'without-val', splits=('train', 'train', 'test')))


def figures(folder, key):
    return [entry.get(key) for entry in log(folder)]


def add_caption(folder, filename, tokens):
    """Gives the image of a dataset these tokens as its only caption."""
    path = folder / 'dataset.json'
    data = json.loads(path.read_text())
    image, = (image for image in data['images'] if image['filename'] == filename)
    image['sentences'] = [{'tokens': tokens}] if tokens else []
    path.write_text(json.dumps(data))


def test_scores_are_those_that_evaluate_gives(dataset, tmp_path):
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    evaluation, = Evaluator(dataset, 'val').evaluate_model('model', Captioner(bundle), [BeamSearch(width=3)])
    entry, = log(tmp_path / 'model')
    assert entry[CIDER] == pytest.approx(evaluation.figures['CIDEr'], abs=1e-12)
    assert entry[BLEU4] == pytest.approx(evaluation.figures['BLEU-4'], abs=1e-12)


def test_scoring_does_not_affect_training(dataset, tmp_path):
    for name, every in (('always', 1), ('seldom', 2), ('never', 0)):
        train(dataset, tmp_path / name, Settings(epochs=3, score_every=every, **SMALL))
        assert_equal_weights(tmp_path / 'always', tmp_path / name)
    assert figures(tmp_path / 'always', LOSS) == figures(tmp_path / 'never', LOSS)
    assert None not in figures(tmp_path / 'always', CIDER)
    assert [figure is None for figure in figures(tmp_path / 'seldom', CIDER)] == [True, False, True]
    assert figures(tmp_path / 'seldom', CIDER)[1] == figures(tmp_path / 'always', CIDER)[1]
    assert figures(tmp_path / 'never', CIDER) == [None] * 3


def test_the_same_images_are_sampled_in_every_scored_epoch(make_dataset, tmp_path):
    dataset = Dataset(make_dataset(images=72))
    train(dataset, tmp_path / 'model', Settings(epochs=4, score_every=2, hidden=32, batch_size=8))
    entries = log(tmp_path / 'model')
    assert ['samples' in entry for entry in entries] == [False, True, False, True]
    names = dataset.captions.filenames
    expected = [names[p] for p in dataset.images('val')[[0, 3, 6, 8, 11]]]     # of twelve, spread evenly
    for entry in entries[1::2]:
        assert [sample['filename'] for sample in entry['samples']] == expected
        assert all(sample['finished'] in (True, False) and sample['log_prob'] < 0 for sample in entry['samples'])
    # The last epoch, which is the best and kept, said what the model says.
    assert np.argmin(figures(tmp_path / 'model', LOSS)) == 3
    last = {result.filename: result.captions[0] for result in Captioner.load(
        tmp_path / 'model', images=False).caption_dataset(dataset, 'val', width=3, top=1)}
    assert [sample['caption'] for sample in entries[-1]['samples']] == [last[name].text for name in expected]


def test_images_without_a_caption_are_neither_scored_nor_sampled(make_dataset, tmp_path):
    folder = make_dataset()
    first = Dataset(folder).captions.filenames[Dataset(folder).images('val')[0]]
    add_caption(folder, first, [])
    train(Dataset(folder), tmp_path / 'model', Settings(epochs=1, **SMALL))
    entry, = log(tmp_path / 'model')
    assert len(entry['samples']) == 5
    assert first not in [sample['filename'] for sample in entry['samples']]


def test_resuming_goes_on_with_scores_and_samples_and_the_snapshot_holds_no_pickle(make_dataset, tmp_path):
    folder = make_dataset()
    for filename in ('0000.png', '0001.png'):
        add_caption(folder, filename, ['một', 'chó', '\udce9', '"<'] * 2)
    dataset, options = Dataset(folder), {'min_count': 1, 'score_every': 2, 'keep_best': 'cider', **SMALL}
    train(dataset, tmp_path / 'whole', Settings(epochs=4, **options))
    for epochs in (1, 3, 4):
        train(dataset, tmp_path / 'parts', Settings(epochs=epochs, **options), resume=True)
    assert log(tmp_path / 'whole') == log(tmp_path / 'parts')
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    newest = max((tmp_path / 'parts').glob('snapshot-*.npz'), key=lambda path: path.stat().st_mtime_ns)
    with np.load(newest, allow_pickle=False) as snapshot:
        assert not any(snapshot[name].dtype.hasobject for name in snapshot.files)


def test_the_best_epoch_by_cider_is_kept_and_patience_counts_scored_epochs(dataset, tmp_path):
    options = {'hidden': 64, 'batch_size': 8, 'dropout': 0, 'score_every': 2, 'keep_best': 'cider', 'patience': 2}
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=100, **options))
    ciders, losses = (figures(tmp_path / 'model', key) for key in (CIDER, LOSS))
    scored = ciders[1::2]
    assert len(ciders) < 100
    assert len(scored) - 1 - int(np.argmax(scored)) == 2
    assert validation_loss(bundle, dataset) == pytest.approx(losses[2 * int(np.argmax(scored)) + 1], rel=1e-5)


def test_until_the_figure_is_measured_the_last_epoch_is_kept(dataset, tmp_path):
    settings = Settings(epochs=3, keep_best='cider', score_every=5, patience=1, **SMALL)
    bundle = train(dataset, tmp_path / 'model', settings)
    losses = figures(tmp_path / 'model', LOSS)
    assert len(losses) == 3
    assert validation_loss(bundle, dataset) == pytest.approx(losses[-1], rel=1e-5)


def test_keeping_the_best_by_cider_is_refused_without_references(dataset, without_val, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    before = weights(tmp_path / 'model')
    with pytest.raises(InputError, match=r'split val.*--keep-best cider'):
        train(without_val, tmp_path / 'model', Settings(epochs=1, keep_best='cider', **SMALL), overwrite=True)
    np.testing.assert_array_equal(weights(tmp_path / 'model')['word_vec/W'], before['word_vec/W'])


def test_keeping_the_best_by_cider_is_refused_with_a_single_image(make_dataset, tmp_path):
    one, two = (Dataset(make_dataset(tmp_path / f'{val}', images=10, splits=['train'] * (10 - val) + ['val'] * val))
                for val in (1, 2))
    with pytest.raises(InputError, match=r'only one image of the split val has captions.*--keep-best cider'):
        train(one, tmp_path / 'model', Settings(epochs=1, keep_best='cider', **SMALL))
    assert not (tmp_path / 'model').exists()
    said = []
    train(one, tmp_path / 'model', Settings(epochs=2, **SMALL), say=said.append)
    assert len(said) == 1 and 'CIDEr of a single image is 0' in said[0]
    assert figures(tmp_path / 'model', CIDER) == [0, 0]
    train(two, tmp_path / 'two', Settings(epochs=1, keep_best='cider', **SMALL), say=said.append)
    assert len(said) == 1


def test_without_val_nothing_is_scored(without_val, tmp_path):
    train(without_val, tmp_path / 'model', Settings(epochs=1, **SMALL))
    entry, = log(tmp_path / 'model')
    assert not [key for key in entry if key.startswith('validation') or key == 'samples']


def test_resuming_with_another_figure_is_refused_and_scoring_may_change_where_it_has_no_effect(dataset, tmp_path):
    train(dataset, tmp_path / 'loss', Settings(epochs=1, score_every=0, **SMALL))
    with pytest.raises(InputError, match='keep_best loss, not cider'):
        train(dataset, tmp_path / 'loss', Settings(epochs=2, keep_best='cider', **SMALL), resume=True)
    train(dataset, tmp_path / 'loss', Settings(epochs=2, **SMALL), resume=True)
    train(dataset, tmp_path / 'loss', Settings(epochs=3, score_every=0, **SMALL), resume=True)
    assert [figure is None for figure in figures(tmp_path / 'loss', CIDER)] == [True, False, True]
    train(dataset, tmp_path / 'cider', Settings(epochs=1, keep_best='cider', **SMALL))
    with pytest.raises(InputError, match='score_every 1, not 2'):
        train(dataset, tmp_path / 'cider', Settings(epochs=2, keep_best='cider', score_every=2, **SMALL), resume=True)


def test_settings_that_a_model_does_not_record_have_their_defaults(dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    config = json.loads((tmp_path / 'model' / 'config.json').read_text())
    for name in ('keep_best', 'score_every', 'tensorboard', 'snapshot_every', 'keep_snapshots', 'objective',
                 'baseline', 'samples', 'xe_weight', 'learning_rate', 'average'):
        del config['training'][name]
    config['training']['unheard_of'] = {'from': 'a later version'}
    (tmp_path / 'model' / 'config.json').write_text(json.dumps(config))
    with pytest.raises(InputError, match='keep_best loss, not cider'):
        train(dataset, tmp_path / 'model', Settings(epochs=2, keep_best='cider', **SMALL), resume=True)
    train(dataset, tmp_path / 'model', Settings(epochs=2, **SMALL), resume=True)


@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning')
def test_a_diverged_model_generates_empty_captions(dataset, tmp_path):
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=0, **SMALL))
    bundle.model.out_word.W.array[...] = np.nan
    observed = {}
    with chainer.Reporter().scope(observed):
        CaptionScores(bundle, dataset, '@numpy')(None)
    assert observed[CIDER] == observed[BLEU4] == 0
    assert {(sample['caption'], sample['log_prob'], sample['finished']) for sample in observed['samples']} == {
        ('', None, False)}


def test_curves_are_drawn_and_removed_on_overwriting(dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=2, **SMALL))
    for name in ('loss.png', 'scores.png'):
        with Image.open(tmp_path / 'model' / name) as image:
            assert min(image.size) > 200
    (tmp_path / 'model' / 'events').mkdir()
    (tmp_path / 'model' / 'events' / 'events.out.tfevents.1').touch()
    (tmp_path / 'model' / 'events' / 'mine').touch()
    train(dataset, tmp_path / 'model', Settings(epochs=1, score_every=0, **SMALL), overwrite=True)
    assert sorted(os.listdir(tmp_path / 'model')) == ['config.json', 'events', 'familiarity.npz', 'log.json',
                                                      'loss.png', 'run.html', 'snapshot-0.npz', 'snapshot-6.npz',
                                                      'vocabulary.json', 'weights.npz']
    assert os.listdir(tmp_path / 'model' / 'events') == ['mine']


def test_the_command_scores_and_prints(call, dataset_dir, tmp_path):
    arguments = dataset_dir, '--hidden', 8, '--batch-size', 32, '--epochs', 2
    status, out, err = call('train', *arguments, '-o', tmp_path / 'm', '--keep-best', 'cider', '--patience', 1)
    assert (status, err) == (0, '')
    assert out.splitlines()[0].split()[-3:] == [CIDER, BLEU4, 'elapsed_time']
    assert call('train', *arguments, '-o', tmp_path / 'n', '--score-every', 0)[0] == 0


def test_tensorboard_where_its_writer_is_missing(refused, dataset_dir, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'tensorboardX' else found(name))
    assert 'pip install' in refused('train', dataset_dir, '-o', tmp_path / 'm', '--tensorboard')
    assert not (tmp_path / 'm').exists()


# ---- As TensorBoard reads it

@pytest.fixture
def read_events():
    """Reads what TensorBoard would show of a training: a function of its folder gives TensorBoard's own reader."""
    pytest.importorskip('tensorboardX')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    return lambda folder: accumulator.EventAccumulator(str(folder / 'events')).Reload()


def scalars(reader, tag):
    return [(event.step, pytest.approx(event.value, rel=1e-6)) for event in reader.Scalars(tag)]


def test_events_are_the_log_at_the_updates(dataset, tmp_path, read_events):
    train(dataset, tmp_path / 'model', Settings(epochs=3, score_every=2, tensorboard=True, **SMALL))
    reader, entries = read_events(tmp_path / 'model'), log(tmp_path / 'model')
    tags = {key for entry in entries for key, value in entry.items() if not isinstance(value, list)} - {'iteration'}
    assert {*reader.Tags()['scalars']} == {*tags, 'elapsed_time'}
    for tag in tags:
        assert scalars(reader, tag) == [(entry['iteration'], entry[tag]) for entry in entries if tag in entry]
    sample = entries[1]['samples'][0]
    text, = reader.Tensors(f'samples/{sample["image_id"]}/text_summary')
    assert text.step == entries[1]['iteration']
    assert text.tensor_proto.string_val[0].decode() == sample['caption']


def test_events_go_on_when_a_training_is_resumed(dataset, tmp_path, read_events):
    model = tmp_path / 'model'
    train(dataset, model, Settings(epochs=2, tensorboard=True, **SMALL))
    train(dataset, model, Settings(epochs=3, tensorboard=True, **SMALL), resume=True)
    # As if it had been stopped just before the third was saved.
    max(model.glob('snapshot-*.npz'), key=lambda path: path.stat().st_mtime_ns).unlink()
    train(dataset, model, Settings(epochs=4, tensorboard=True, **SMALL), resume=True)
    reader = read_events(model)
    for tag in 'main/loss', CIDER:
        assert scalars(reader, tag) == [(entry['iteration'], entry[tag]) for entry in log(model)]
    assert len(reader.Scalars('main/loss')) == 4


def test_events_that_start_on_resuming_contain_earlier_epochs(dataset, tmp_path, read_events):
    train(dataset, tmp_path / 'model', Settings(epochs=2, **SMALL))
    train(dataset, tmp_path / 'model', Settings(epochs=3, tensorboard=True, **SMALL), resume=True)
    assert scalars(read_events(tmp_path / 'model'), CIDER) == [
        (entry['iteration'], entry[CIDER]) for entry in log(tmp_path / 'model')]


def test_captions_reach_tensorboard_as_text_and_not_as_markup(tmp_path, read_events):
    entry = {'epoch': 1, 'iteration': 7, 'samples': [{'image_id': 3, 'caption': 'một <b> \udce9'}]}
    trainer = types.SimpleNamespace(out=tmp_path, updater=types.SimpleNamespace(iteration=7),
                                    get_extension=lambda name: types.SimpleNamespace(log=[entry]))
    events = Events()
    events.initialize(trainer)
    events.finalize()
    text, = read_events(tmp_path).Tensors('samples/3/text_summary')
    assert text.tensor_proto.string_val[0].decode() == 'một &lt;b&gt; \N{REPLACEMENT CHARACTER}'
