"""Training: the same seed, resuming, the best epoch, what is refused."""
import importlib
import json

import chainer
import numpy as np
import pytest

from chainer_caption import Bundle, Captioner, Dataset, InputError, Settings, train
from chainer_caption.data.batches import CaptionDataset, PackCaptions
from chainer_caption.functions.bfloat16 import available
from chainer_caption.storage.archives import read_npz

SMALL = {'hidden': 16, 'batch_size': 16}


@pytest.fixture
def dataset(make_dataset):
    return Dataset(make_dataset())


def weights(folder):
    return read_npz(folder / 'weights.npz')


def assert_equal_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def log(folder):
    return [{key: value for key, value in entry.items() if key != 'elapsed_time'}
            for entry in json.loads((folder / 'log.json').read_text())]


def validation_loss(bundle, dataset, split='val'):
    """Nats per token by the definition: every caption by itself."""
    data = CaptionDataset.from_dataset(dataset, bundle.vocabulary, split)
    nats = tokens = 0
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        for i in range(len(data)):
            batch = PackCaptions(dataset.features)([data[i]], None)
            nats += float(bundle.model(*batch).array) * len(batch[1])
            tokens += len(batch[1])
    return nats / tokens


def test_learns_and_captions(dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=25, hidden=64, batch_size=8, dropout=0.2))
    captioner = Captioner.load(tmp_path / 'model', images=False)
    results = list(captioner.caption_dataset(dataset, 'test'))
    names = dataset.captions.filenames
    references = {names[p]: {tuple(s) for s in dataset.references(p)} for p in dataset.images('test')}
    right = [tuple(r.captions[0].tokens) in references[r.filename] for r in results]
    assert np.mean(right) >= 0.8


def test_same_seed_same_weights_other_seed_others(dataset, tmp_path):
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        np.random.seed(seed + 10)                       # noqa: NPY002 (what a caller does with it changes nothing)
        train(dataset, tmp_path / name, Settings(epochs=2, seed=seed, **SMALL))
    assert_equal_weights(tmp_path / 'a', tmp_path / 'b')
    assert not np.array_equal(weights(tmp_path / 'a')['lstm/upward/W'], weights(tmp_path / 'c')['lstm/upward/W'])


def test_training_leaves_numpys_generator_as_it_was(dataset, tmp_path):
    np.random.seed(5)                                   # noqa: NPY002
    expected = np.random.random(3)                      # noqa: NPY002
    np.random.seed(5)                                   # noqa: NPY002
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_resumed_is_equal_to_never_stopped(dataset, tmp_path):
    train(dataset, tmp_path / 'whole', Settings(epochs=4, **SMALL))
    train(dataset, tmp_path / 'parts', Settings(epochs=1, **SMALL))
    train(dataset, tmp_path / 'parts', Settings(epochs=3, **SMALL), resume=True)
    train(dataset, tmp_path / 'parts', Settings(epochs=4, **SMALL), resume=True)
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    assert log(tmp_path / 'whole') == log(tmp_path / 'parts')


@pytest.mark.skipif(not available(), reason='needs a CPU with AVX512_BF16')
def test_in_bfloat16_it_is_recorded_and_resumed_to_the_last_bit(dataset, tmp_path, monkeypatch):
    settings = {**SMALL, 'precision': 'bf16'}
    train(dataset, tmp_path / 'whole', Settings(epochs=2, **settings))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    train(dataset, tmp_path / 'parts', Settings(epochs=1, **settings))
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    train(dataset, tmp_path / 'parts', Settings(epochs=2, **settings), resume=True)
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    assert log(tmp_path / 'whole') == log(tmp_path / 'parts')
    assert Bundle.load(tmp_path / 'parts').training['precision'] == 'bf16'
    train(dataset, tmp_path / 'float32', Settings(epochs=2, **SMALL))
    loss, other = (log(tmp_path / name)[-1]['validation/main/loss'] for name in ('whole', 'float32'))
    assert 0 < abs(loss - other) < 0.01
    assert weights(tmp_path / 'whole')['lstm/upward/W'].dtype == np.float32


def test_bfloat16_where_the_cpu_has_none_is_a_line_and_float32(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module('chainer_caption.functions.matmul'), 'available', lambda: False)
    said = []
    train(dataset, tmp_path / 'model', Settings(epochs=1, precision='bf16', **SMALL), say=said.append)
    assert len(said) == 1 and 'float32' in said[0]
    train(dataset, tmp_path / 'float32', Settings(epochs=1, **SMALL))
    assert_equal_weights(tmp_path / 'model', tmp_path / 'float32')


def test_resuming_what_is_complete_changes_nothing(dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=2, **SMALL))
    before, entries = weights(tmp_path / 'model'), log(tmp_path / 'model')
    train(dataset, tmp_path / 'model', Settings(epochs=2, **SMALL), resume=True)
    for name, array in weights(tmp_path / 'model').items():
        np.testing.assert_array_equal(array, before[name])
    assert log(tmp_path / 'model') == entries


def test_resume_where_there_is_nothing_starts(dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL), resume=True)
    assert len(log(tmp_path / 'model')) == 1


@pytest.mark.parametrize(('name', 'value'), [('hidden', 8), ('batch_size', 8), ('dropout', 0.1), ('min_count', 1),
                                             ('seed', 1), ('precision', 'bf16')])
def test_resuming_with_another_setting_is_refused_by_its_name(dataset, tmp_path, name, value):
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    with pytest.raises(InputError, match=f'trained with {name} '):
        train(dataset, tmp_path / 'model', Settings(epochs=2, **{**SMALL, name: value}), resume=True)


def test_resuming_on_another_dataset_is_refused(make_dataset, tmp_path):
    train(Dataset(make_dataset(tmp_path / 'one', images=60)), tmp_path / 'model', Settings(epochs=1, **SMALL))
    with pytest.raises(InputError, match='another dataset'):
        train(Dataset(make_dataset(tmp_path / 'two', images=66)), tmp_path / 'model', Settings(epochs=2, **SMALL),
              resume=True)


def test_a_model_is_not_overwritten_unasked(dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    before = weights(tmp_path / 'model')
    with pytest.raises(InputError, match='--overwrite'):
        train(dataset, tmp_path / 'model', Settings(epochs=1, seed=1, **SMALL))
    np.testing.assert_array_equal(weights(tmp_path / 'model')['word_vec/W'], before['word_vec/W'])
    train(dataset, tmp_path / 'model', Settings(epochs=1, seed=1, **SMALL), overwrite=True)
    assert not np.array_equal(weights(tmp_path / 'model')['word_vec/W'], before['word_vec/W'])


def test_reported_validation_loss_is_that_of_the_tokens(dataset, tmp_path):
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    entry = log(tmp_path / 'model')[-1]
    expected = validation_loss(bundle, dataset)
    assert entry['validation/main/loss'] == pytest.approx(expected, rel=1e-5)
    assert entry['validation/main/perplexity'] == pytest.approx(np.exp(expected), rel=1e-5)
    assert 0 < entry['validation/main/accuracy'] < 1


def test_the_best_epoch_is_kept_and_patience_stops(dataset, tmp_path):
    # Without dropout the model soon overfits so few captions, and validation gets worse.
    bundle = train(dataset, tmp_path / 'model', Settings(epochs=100, hidden=64, batch_size=8, dropout=0, patience=2))
    losses = [entry['validation/main/loss'] for entry in log(tmp_path / 'model')]
    assert len(losses) < 100
    assert len(losses) - 1 - int(np.argmin(losses)) == 2
    assert validation_loss(bundle, dataset) == pytest.approx(min(losses), rel=1e-5)


def test_the_test_split_is_not_used(make_dataset, tmp_path):
    """Changing every test caption and feature changes nothing."""
    models = []
    for name in ('one', 'two'):
        folder = make_dataset(tmp_path / name)
        if name == 'two':
            data = json.loads((folder / 'dataset.json').read_text())
            for image in data['images']:
                if image['split'] == 'test':
                    for sentence in image['sentences']:
                        sentence['tokens'] = ['nonsense'] * 9
            (folder / 'dataset.json').write_text(json.dumps(data))
        train(Dataset(folder), tmp_path / f'model-{name}', Settings(epochs=2, **SMALL))
        models.append(tmp_path / f'model-{name}')
    assert_equal_weights(*models)
    assert log(models[0]) == log(models[1])
    assert (models[0] / 'vocabulary.json').read_text() == (models[1] / 'vocabulary.json').read_text()


def test_without_validation_images_the_last_epoch_is_kept(make_dataset, tmp_path):
    folder = make_dataset()
    data = json.loads((folder / 'dataset.json').read_text())
    data['images'] = [image for image in data['images'] if image['split'] != 'val']
    (folder / 'dataset.json').write_text(json.dumps(data))
    said = []
    train(Dataset(folder), tmp_path / 'one', Settings(epochs=1, **SMALL), say=said.append)
    train(Dataset(folder), tmp_path / 'two', Settings(epochs=2, **SMALL), say=said.append)
    assert all('val' in line for line in said)
    assert len(said) == 2
    assert not np.array_equal(weights(tmp_path / 'one')['word_vec/W'], weights(tmp_path / 'two')['word_vec/W'])


def test_bare_weights_become_a_model_directory(dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    bundle = train(dataset, tmp_path / 'bare', Settings(epochs=0), start_from=tmp_path / 'model' / 'weights.npz')
    assert_equal_weights(tmp_path / 'model', tmp_path / 'bare')
    assert bundle.model.hidden == 16
    assert bundle.vocabulary.words == Bundle.load(tmp_path / 'model').vocabulary.words


def test_starting_from_a_model_keeps_its_vocabulary(dataset, make_dataset, tmp_path):
    first = train(dataset, tmp_path / 'first', Settings(epochs=1, **SMALL))
    other = Dataset(make_dataset(tmp_path / 'other', images=30))
    second = train(other, tmp_path / 'second', Settings(epochs=1, batch_size=16, min_count=2),
                   start_from=tmp_path / 'first')
    assert second.vocabulary.words == first.vocabulary.words


def test_weights_that_do_not_fit_are_refused(dataset, make_dataset, tmp_path):
    train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL))
    other = Dataset(make_dataset(tmp_path / 'other', dim=dataset.feature_size + 1))
    with pytest.raises(InputError, match='image_vec/W'):
        train(other, tmp_path / 'second', Settings(epochs=1), start_from=tmp_path / 'model' / 'weights.npz')
    with pytest.raises(InputError, match='hidden'):
        train(dataset, tmp_path / 'second', Settings(epochs=1, hidden=99), start_from=tmp_path / 'model')


def test_declared_and_recorded_provenance(dataset, tmp_path):
    karpathy, seed = ({'encoder': 'vgg19', 'preprocessing': preprocessing} for preprocessing in ('karpathy', 'seed'))
    assert train(dataset, tmp_path / 'a', Settings(epochs=0, hidden=8)).provenance is None
    assert train(dataset, tmp_path / 'b', Settings(epochs=0, hidden=8), provenance=karpathy).provenance == karpathy
    (dataset.features_path.parent / 'vgg_feats.mat.json').write_text(json.dumps(seed))
    recorded = Dataset(dataset.features_path.parent)
    assert train(recorded, tmp_path / 'c', Settings(epochs=0, hidden=8)).provenance == seed
    with pytest.raises(InputError, match='karpathy'):
        train(recorded, tmp_path / 'd', Settings(epochs=0, hidden=8), provenance=karpathy)


@pytest.mark.parametrize('wrong', [{'epochs': -1}, {'batch_size': 0}, {'hidden': 0}, {'dropout': 1.0},
                                   {'dropout': -0.1}, {'min_count': 0}, {'patience': 0}, {'seed': -1},
                                   {'score_every': -1}, {'keep_best': 'bleu'}, {'snapshot_every': 0},
                                   {'keep_snapshots': 0}, {'objective': 'bleu'}, {'baseline': 'none'}, {'samples': 0},
                                   {'xe_weight': -1}, {'learning_rate': 0}, {'learning_rate': float('nan')},
                                   {'learning_rate': float('inf')}, {'average': 0}])
def test_impossible_settings_are_refused_by_their_name(wrong):
    name, = wrong
    with pytest.raises(InputError, match=f'^{name} '):
        Settings(**wrong)


@pytest.mark.gpu
def test_trained_on_one_device_used_on_the_other(dataset, tmp_path):
    train(dataset, tmp_path / 'gpu', Settings(epochs=3, **SMALL), device='@cupy:0')
    train(dataset, tmp_path / 'cpu', Settings(epochs=3, **SMALL))
    on_gpu, on_cpu = log(tmp_path / 'gpu'), log(tmp_path / 'cpu')
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one['validation/main/loss'] == pytest.approx(other['validation/main/loss'], rel=1e-2)
    for name in ('gpu', 'cpu'):
        captions = [[r.captions[0].text for r in
                     Captioner.load(tmp_path / name, device, images=False).caption_dataset(dataset, 'test')]
                    for device in ('@numpy', '@cupy:0')]
        assert captions[0] == captions[1]


@pytest.mark.gpu
def test_no_room_on_the_gpu(dataset, tmp_path, room):
    room(2 ** 10)
    with pytest.raises(InputError, match=r'^-g 0: Out of memory .*; free some or lower --batch-size or --hidden or '):
        train(dataset, tmp_path / 'model', Settings(epochs=1, **SMALL), device='@cupy:0')
