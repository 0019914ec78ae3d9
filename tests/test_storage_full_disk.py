"""Full and read-only disks: one line that names the file, status 2, and earlier files kept."""
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import left_by_training
from PIL import Image

from chainer_caption import Dataset
from chainer_caption.storage.files import atomic_write, with_filename
from chainer_caption.training.snapshots import read_snapshot

OPTIONS = '--epochs', '2', '--hidden', '16', '--batch-size', '32'


def remount(folder, options):
    subprocess.run(['mount', '-o', f'remount,{options}', folder], check=True, capture_output=True)


def fill(folder, leave=0):
    """Fills a disk, except for `leave` bytes."""
    with open(folder / 'filler', 'wb', buffering=0) as f:
        try:
            while f.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
        f.truncate(max(0, f.tell() - leave))


def one_line(status, err, path, reason='No space left on device'):
    assert status == 2
    assert err.count('\n') == 1 and str(path) in err and reason in err and 'Traceback' not in err, err


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(40):
        Image.fromarray(np.full((8, 8, 3), 5 * i, np.uint8)).save(folder / f'{i:02}.png')
    return folder


def test_training(call, dataset_dir, disk, tmp_path):
    model = disk / 'model'
    assert call('train', dataset_dir, '-o', tmp_path / 'undisturbed', *OPTIONS)[0] == 0
    status, _, err = call('train', dataset_dir, '-o', model, *OPTIONS, '--snapshot-every', '1', '--keep-snapshots', '9')
    one_line(status, err, f'{model}/')
    kept = list(model.glob('snapshot-*.npz'))
    assert kept, 'what had been written is there'
    for path in kept:
        read_snapshot(path)
    assert not list(model.glob('.*'))
    remount(disk, 'size=64m,ro')
    status, _, err = call('train', dataset_dir, '-o', model, *OPTIONS, '--resume')
    one_line(status, err, model, 'Read-only file system')
    remount(disk, 'rw')
    assert call('train', dataset_dir, '-o', model, *OPTIONS, '--resume')[0] == 0
    resumed, undisturbed = left_by_training(model), left_by_training(tmp_path / 'undisturbed')
    assert all(resumed[name] == undisturbed[name] for name in resumed.keys() & undisturbed.keys() - {'files'})


@pytest.mark.parametrize('name', ['captions.txt', 'captions.jsonl', 'captions.csv', 'captions.html'])
def test_captions_of_a_dataset(name, call, dataset_dir, model_dir, disk):
    if name == 'captions.html':
        (disk / name).write_text('old')
    fill(disk)
    status, _, err = call('generate', '-m', model_dir, '--dataset', dataset_dir, '-o', disk / name)
    one_line(status, err, disk / name)
    assert name != 'captions.html' or (disk / name).read_text() == 'old'


def test_captions_of_images(call, demo_model, images, disk):
    out = disk / 'captions.jsonl'
    out.write_text('old')
    fill(disk, leave=4096)
    status, _, err = call('generate', '-m', demo_model, images, '-o', out)
    one_line(status, err, f'{out}.part')
    assert out.read_text() == 'old'
    remount(disk, 'size=64m')
    assert call('generate', '-m', demo_model, images, '-o', out)[0] == 0
    assert out.read_text().count('\n') == 40


def test_features(call, images, disk):
    command = 'extract_features', images, '-o', disk / 'dataset', '--encoder', 'demo'
    status, _, err = call(*command)                     # 40 * 4096 * 4 bytes are too many from the beginning
    one_line(status, err, disk / 'dataset' / 'feats.npy')
    remount(disk, 'size=64m')
    assert call(*command)[0] == 0


def test_evaluation(call, dataset_dir, model_dir, disk):
    (disk / 'scores.jsonl').write_text('old')
    fill(disk)
    status, _, err = call('evaluate', dataset_dir, '-m', model_dir, '--beam-widths', '1',
                          '--per-image', disk / 'scores.jsonl')
    one_line(status, err.splitlines(keepends=True)[-1], disk / 'scores.jsonl')
    assert (disk / 'scores.jsonl').read_text() == 'old'


@pytest.mark.parametrize('state', ['full', 'read-only'])
@pytest.mark.parametrize('matrix', ['vgg_feats.mat', 'feats.npy'])
def test_a_cache_that_cannot_be_written_costs_time_alone(state, matrix, call, make_dataset, disk, monkeypatch):
    folder = make_dataset()
    expected = np.array(Dataset(folder).features)
    if matrix == 'feats.npy':
        (folder / 'vgg_feats.mat').unlink()
        np.save(folder / 'feats.npy', expected)
    monkeypatch.setenv('XDG_CACHE_HOME', str(disk))
    fill(disk)
    if state == 'read-only':
        remount(disk, 'ro')
    for _ in range(2):
        dataset = Dataset(folder)
        np.testing.assert_array_equal(dataset.features, expected)
        assert dataset.references(0)
    assert call('describe', folder)[::2] == (0, '')


def test_standard_output(package_environment, dataset_dir, model_dir):
    if not os.path.exists('/dev/full'):
        pytest.skip('needs /dev/full')
    program = 'import sys; from chainer_caption import cli; sys.exit(cli.run("generate", sys.argv[1:]))'
    with open('/dev/full', 'wb') as full:
        done = subprocess.run([sys.executable, '-c', program, '-m', model_dir, '--dataset', dataset_dir], check=False,
                              env=package_environment, stdout=full, stderr=subprocess.PIPE)
    one_line(done.returncode, done.stderr.decode(), 'standard output')


def test_errors_name_the_file_that_was_wanted(tmp_path):
    with pytest.raises(OSError) as caught, with_filename(tmp_path / 'a'):
        raise OSError(28, 'No space left on device')
    assert caught.value.filename == str(tmp_path / 'a')
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / 'none' / 'b'):
        pass
    assert caught.value.filename == str(tmp_path / 'none' / 'b')
    with pytest.raises(OSError) as caught, with_filename('a'), open(tmp_path / 'other'):
        pass
    assert caught.value.filename == str(tmp_path / 'other'), 'its own name, if it has one'
