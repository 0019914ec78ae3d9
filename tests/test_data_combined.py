"""Several datasets as one: equal, to the bit, to a dataset that was merged by hand."""
import json

import numpy as np
import pytest
from conftest import left_by_training
from test_parallel import SCRIPTS, together  # noqa: F401 (a fixture)
from test_training import assert_equal_weights, log, weights
from test_training_snapshots import stop_after

from chainer_caption import Dataset, InputError, Settings, train
from chainer_caption.data import combine
from chainer_caption.data.batches import CaptionDataset, CaptionIterator, take_rows
from chainer_caption.data.combined import StackedRows
from chainer_caption.storage.files import read_json

SMALL = {'hidden': 16, 'batch_size': 16, 'epochs': 2}


def rewrite(folder, change):
    path = folder / 'dataset.json'
    data = json.loads(path.read_text('utf-8'))
    change(data)
    path.write_text(json.dumps(data), 'utf-8')


@pytest.fixture
def folders(make_dataset, tmp_path):
    """Two datasets whose image ids collide, one in float32 and one in float16, and both merged by hand."""
    one, other = make_dataset(tmp_path / 'one', images=30), make_dataset(tmp_path / 'other', images=24, seed=1)
    rewrite(other, lambda data: [sentence.update(tokens=['oval', *sentence['tokens']]) for image in data['images']
                                 for sentence in image['sentences']])
    half = np.asarray(Dataset(other).features).astype(np.float16)
    (other / 'vgg_feats.mat').unlink()
    np.save(other / 'feats.npy', half)
    merged = tmp_path / 'merged'
    merged.mkdir()
    images = [read_json(folder / 'dataset.json')['images'] for folder in (one, other)]
    for image in images[1]:
        image['imgid'] += 30
    (merged / 'dataset.json').write_text(json.dumps({'images': images[0] + images[1]}), 'utf-8')
    np.save(merged / 'feats.npy', np.concatenate([Dataset(one).features, half.astype(np.float32)]))
    return one, other, merged


@pytest.fixture
def datasets(folders):
    one, other, merged = map(Dataset, folders)
    return combine([one, other]), merged


def test_captions_and_features_are_those_of_a_merged_dataset(datasets):
    both, merged = datasets
    for name in ('filenames', 'words', 'tokenizer'):
        assert getattr(both.captions, name) == getattr(merged.captions, name)
    for name in ('image_ids', 'coco_ids', 'splits', 'sentences', 'bounds', 'tokens'):
        one, other = (getattr(each.captions, name) for each in datasets)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)
    rows = np.array([53, 0, 30, 29, 30])
    np.testing.assert_array_equal(take_rows(both.features, rows), merged.features[rows])
    assert both.features.shape == merged.features.shape and both.feature_size == merged.feature_size
    assert both.word_counts('train') == merged.word_counts('train')


def test_features_stay_mapped(datasets):
    both, _ = datasets
    assert all(isinstance(part.features, np.memmap) for part in both.parts)


def test_stacked_rows():
    arrays = [np.arange(n * 6, dtype=dtype).reshape(n, 2, 3)
              for n, dtype in ((4, np.float16), (1, np.float32), (3, np.float16))]
    stacked, whole = StackedRows(arrays), np.concatenate(arrays)
    assert (stacked.shape, stacked.ndim, stacked.dtype, stacked.nbytes, len(stacked)) == (
        whole.shape, 3, whole.dtype, whole.nbytes, 8)
    for rows in (slice(2, 7), slice(0, 100), slice(None), np.array([7, 4, 4, 0]), np.array([], int)):
        np.testing.assert_array_equal(stacked[rows], whole[rows])
    for wrong in ([-1], [8]):
        with pytest.raises(IndexError):
            stacked[np.array(wrong)]


@pytest.mark.parametrize('more', [{}, {'architecture': 'encoder_decoder', 'max_positions': 6}])
def test_training_equals_training_on_a_merged_dataset(more, datasets, tmp_path):
    for name, dataset in zip(('both', 'merged'), datasets, strict=True):
        train(dataset, tmp_path / 'trained' / name, Settings(**SMALL, **more))
    both, merged = (left_by_training(tmp_path / 'trained' / name) for name in ('both', 'merged'))
    assert both['files'] == merged['files']
    assert [name for name in both if both[name] != merged[name]] == ['config.json']     # the digests


def test_scst_equals_scst_on_a_merged_dataset(datasets, tmp_path):
    for name, dataset in zip(('both', 'merged'), datasets, strict=True):
        train(dataset, tmp_path / 'xe', Settings(**SMALL), overwrite=True)
        train(dataset, tmp_path / 'trained' / name, Settings(epochs=2, batch_size=20, objective='self-critical'),
              start_from=tmp_path / 'xe')
    assert_equal_weights(tmp_path / 'trained' / 'both', tmp_path / 'trained' / 'merged')
    assert log(tmp_path / 'trained' / 'both') == log(tmp_path / 'trained' / 'merged')


def test_resuming_and_what_is_refused(folders, tmp_path):
    one, other = map(Dataset, folders[:2])
    train(combine([one, other]), tmp_path / 'whole', Settings(**SMALL, dataset_weights='1,2.5'))
    train(combine([one, other]), tmp_path / 'parts', Settings(**SMALL, dataset_weights='1,2.5'), stop=stop_after(9))
    for dataset in (combine([other, one]), combine([one, one])):
        with pytest.raises(InputError, match='another dataset'):
            train(dataset, tmp_path / 'parts', Settings(**SMALL, dataset_weights='1,2.5'), resume=True)
    with pytest.raises(InputError, match=r'dataset_weights 1,2\.5, not 1,3'):
        train(combine([one, other]), tmp_path / 'parts', Settings(**SMALL, dataset_weights='1,3'), resume=True)
    train(combine([one, other]), tmp_path / 'parts', Settings(**SMALL, dataset_weights='1,2.5'), resume=True)
    assert_equal_weights(tmp_path / 'whole', tmp_path / 'parts')
    assert len(read_json(tmp_path / 'parts' / 'config.json')['training']['dataset']['datasets']) == 2
    assert 'one + other' in (tmp_path / 'parts' / 'run.html').read_text('utf-8')


@pytest.mark.parametrize('per_image', [False, True])
def test_weights_are_how_often_an_epoch_has_a_caption(per_image, datasets):
    both, _ = datasets
    data = CaptionDataset(*both.sentences('train', 'restval'))
    weights = both.weights(data.rows, [2, 5])
    np.testing.assert_array_equal(weights, np.where(data.rows < 30, 1, 2.5))
    iterator, epochs = CaptionIterator(data, 16, weights=weights, per_image=per_image), []
    for _ in range(40):
        drawn = np.concatenate([iterator._order[i] for i in range(iterator.batches_per_epoch)])
        assert len(drawn) == iterator.examples
        epochs.append(np.bincount(drawn, minlength=len(data)))
        while not (next(iterator) and iterator.is_new_epoch):
            pass
    times = np.array(epochs)
    assert (times[:, weights == 1] == 1).all()
    more = times[:, weights > 1]
    assert ((more == 2) | (more == 3)).all() and (more.mean(axis=1) == 2.5).all()
    assert abs(more.mean(axis=0) - 2.5).max() < 0.35    # others in every epoch; five standard deviations of a half


def test_command_line(folders, call, refused, tmp_path):
    one, other = folders[:2]
    options = ['--epochs', 1, '--hidden', 8, '--batch-size', 16]
    assert call('train', one, other, '-o', tmp_path / 'both', *options, '--dataset-weights', '1,3')[0] == 0
    assert log(tmp_path / 'both')[0]['iteration'] == -(-(20 + 3 * 16) * 3 // 16)
    status, out, err = call('evaluate', one, other, '-m', tmp_path / 'both', '--beam-widths', 1, '--json')
    results = json.loads(out)['results']
    assert (status, err) == (0, '') or 'METEOR' in err
    for folder, result in zip((one, other), results, strict=True):
        alone = json.loads(call('evaluate', folder, '-m', tmp_path / 'both', '--beam-widths', 1, '--json')[1])
        assert {**alone, 'dataset': str(folder)} == result
    _, out, _ = call('evaluate', one, other, '-m', tmp_path / 'both', '--beam-widths', 1)
    assert [line.split(',')[0] for line in out.splitlines() if ', test: ' in line] == [str(one), str(other)]
    for arguments, words in (
            (('train', one, other, '-i', 'x.npy', '-o', tmp_path / 'new'), '-s and -i are files of one dataset'),
            (('train', one, other, '-o', tmp_path / 'new', '--dataset-weights', '1'), '--dataset-weights 1: needs a '
             'number for each dataset, of which there are 2'),
            (('train', one, '-o', tmp_path / 'new', '--dataset-weights', '1,2'), 'of which there is 1'),
            (('train', one, other, '-o', tmp_path / 'new', '--dataset-weights', '1,-2'), 'a number above 0'),
            (('train', one, other, '-o', tmp_path / 'new', '--dataset-weights', '1,nan'), 'a number above 0'),
            (('train', one, other, '-o', tmp_path / 'new', '-m', tmp_path / 'both', '--finetune', 'all', '--images',
              tmp_path), 'takes one dataset'),
            (('evaluate', one, other, '-m', tmp_path / 'both', '--html', tmp_path / 'page'), 'is of one dataset')):
        assert words in refused(*arguments)
    assert not (tmp_path / 'new').exists()


def test_datasets_that_do_not_belong_together(folders, make_dataset, tmp_path):
    one = Dataset(folders[0])
    wider = make_dataset(tmp_path / 'wider', dim=17)
    with pytest.raises(InputError, match=r'wider.*has 17 numbers an image, but .*one.* has 16'):
        combine([one, Dataset(wider)])
    letters = make_dataset(tmp_path / 'letters')
    rewrite(letters, lambda data: data.update(tokenizer='characters'))
    with pytest.raises(InputError, match=r'letters.*has captions in characters, but .*one.* in words'):
        combine([one, Dataset(letters)])
    other = make_dataset(tmp_path / 'recorded')
    (other / 'vgg_feats.mat.json').write_text('{"encoder": "vgg19", "preprocessing": "karpathy"}')
    with pytest.raises(InputError, match=r'recorded.*features of vgg19 \(karpathy\), but .*one.* not recorded'):
        combine([one, Dataset(other)])


def test_grids(make_dataset, tmp_path):
    parts, rng = [], np.random.default_rng(0)
    for name, images in (('a', 6), ('b', 12)):
        folder = make_dataset(tmp_path / name, images=images)
        np.save(folder / 'grids.npy', rng.normal(size=(images, 4, 16)).astype(np.float32))
        parts.append(Dataset(folder))
    both = combine(parts)
    vectors, grids = both.inputs('both')
    assert vectors.shape == (18, 16) and both.inputs('grids').shape == grids.shape == (18, 4, 16)
    np.testing.assert_array_equal(grids[np.array([5, 6])], np.stack([parts[0].grids[5], parts[1].grids[0]]))
    assert both.reading('both').digest['datasets'][0].keys() == {'captions', 'features', 'grids'}


def test_two_processes(together, folders, tmp_path):  # noqa: F811
    for size in (1, 2):
        done = together(size, SCRIPTS / 'train.py', *folders[:2], '-o', tmp_path / str(size), '--hidden', '16',
                        '--batch-size', '16', '--epochs', '1', '--dropout', '0', '--dataset-weights', '1,1.5')
        assert (done.returncode, done.stderr) == (0, '')
    expected = weights(tmp_path / '1')
    for name, array in weights(tmp_path / '2').items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5, err_msg=name)
