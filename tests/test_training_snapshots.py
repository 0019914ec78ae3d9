"""Nothing is lost: a training that was stopped, whatever stopped it, goes on and ends as if it never had been."""
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from conftest import left_by_training

from chainer_caption import Bundle, Dataset, InputError, Settings, train
from chainer_caption.models import ShowAndTell
from chainer_caption.storage import files
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.serializers import to_arrays
from chainer_caption.training.snapshots import read_snapshot, restore, save_snapshot

# Three updates an epoch.
SETTINGS = Settings(epochs=2, hidden=16, batch_size=32)
ONE_KEPT = dataclasses.replace(SETTINGS, keep_snapshots=1)
OPTIONS = '--epochs', '2', '--hidden', '16', '--batch-size', '32'
UPDATES = 6


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Drawing, and waiting for the disk, would take most of the time.
    monkeypatch.setattr('chainer_caption.training.extensions.curves._draw', lambda f, curves, measure: None)
    monkeypatch.setattr(files.os, 'fsync', lambda handle: None)


@pytest.fixture(scope='module')
def dataset(dataset_dir):
    return Dataset(dataset_dir)


@pytest.fixture(scope='module')
def undisturbed(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed') / 'model'
    train(dataset, folder, SETTINGS)
    return left_by_training(folder)


@pytest.fixture
def model(tmp_path):
    return tmp_path / 'model'


def stop_after(update):
    """A wish to stop after so many updates."""
    calls = iter(range(1, 1000))
    return lambda: next(calls) >= update


def snapshots(folder):
    return sorted((path.name for path in folder.glob('snapshot-*')), key=lambda name: int(name[9:-4]))


def loads_or_says_why(folder):
    try:
        Bundle.load(folder)
    except InputError as e:
        assert ' lacks ' in str(e) or 'no such' in str(e), e


# Resuming

@pytest.mark.parametrize('update', range(1, UPDATES))
def test_stopped_after_any_update(update, dataset, undisturbed, model):
    lines = []
    train(dataset, model, SETTINGS, stop=stop_after(update), say=lines.append)
    assert len(lines) == 1 and lines[0].startswith(f'stopped at update {update}') and '--resume' in lines[0]
    assert f'snapshot-{update}.npz' in snapshots(model)
    Bundle.load(model)                                  # even where no epoch had ended
    train(dataset, model, SETTINGS, resume=True)
    left = left_by_training(model)
    if update not in (3, 4, 5):                         # there is a snapshot more than without the stop, or it is kept
        assert left == undisturbed
    for name in left.keys() & undisturbed.keys() - {'files'}:
        assert left[name] == undisturbed[name], name


def test_stopped_again_and_again(dataset, undisturbed, model):
    for _ in range(UPDATES - 1):
        train(dataset, model, SETTINGS, resume=True, stop=lambda: True)
    train(dataset, model, SETTINGS, resume=True)
    left = left_by_training(model)
    assert snapshots(model) == ['snapshot-5.npz', 'snapshot-6.npz']
    for name in left.keys() & undisturbed.keys() - {'files'}:
        assert left[name] == undisturbed[name], name


def test_snapshot_interval_and_number(dataset, undisturbed, model, monkeypatch):
    written = []
    monkeypatch.setattr('chainer_caption.training.snapshots.save_snapshot',
                        lambda path, trainer: (written.append(path.name), save_snapshot(path, trainer)))
    train(dataset, model, dataclasses.replace(SETTINGS, snapshot_every=2, keep_snapshots=3))
    assert written == [f'snapshot-{update}.npz' for update in (0, 2, 3, 4, 6)]
    assert snapshots(model) == ['snapshot-3.npz', 'snapshot-4.npz', 'snapshot-6.npz']
    assert left_by_training(model)['log.json'] == undisturbed['log.json']
    written.clear()
    monkeypatch.setattr('chainer_caption.training.snapshots.MINUTES', 0)
    train(dataset, model, ONE_KEPT, overwrite=True)
    assert written == [f'snapshot-{update}.npz' for update in range(UPDATES + 1)]
    assert snapshots(model) == ['snapshot-6.npz']


def test_old_snapshots_are_deleted_after_the_new_one_is_on_the_disk(dataset, model, monkeypatch):
    done = []

    def noting(name, function):
        def call(what, *args, **kwargs):
            path = os.readlink(f'/proc/self/fd/{what}') if isinstance(what, int) else str(args[0] if args else what)
            done.append((name, os.path.basename(path)))
            return function(what, *args, **kwargs)
        return call
    train(dataset, model, ONE_KEPT, stop=stop_after(UPDATES - 1))
    monkeypatch.setattr(files.os, 'fsync', noting('fsync', os.fsync))
    monkeypatch.setattr(files.os, 'replace', noting('replace', os.replace))
    monkeypatch.setattr(pathlib.Path, 'unlink', noting('unlink', pathlib.Path.unlink))
    train(dataset, model, ONE_KEPT, resume=True)
    at = done.index(('replace', 'snapshot-6.npz'))
    assert done[at - 1][0] == 'fsync' and done[at - 1][1].startswith('.snapshot-6.npz')
    assert done[at + 1:at + 3] == [('fsync', 'model'), ('unlink', 'snapshot-5.npz')]
    assert ('replace', 'familiarity.npz') in done[at + 3:], 'of the best weights, when the training is over'


@pytest.mark.parametrize('option', ['--snapshot-every', '--keep-snapshots'])
def test_impossible_intervals_are_refused(option, refused, dataset_dir, model):
    assert option in refused('train', dataset_dir, '-o', model, option, '0')


def test_a_lost_log_is_written_again(dataset, undisturbed, model):
    train(dataset, model, SETTINGS)
    (model / 'log.json').write_text('[{"epoch": 7')
    train(dataset, model, SETTINGS, resume=True)
    assert left_by_training(model) == undisturbed


# Damage

def flip(at):
    def flipped(content):
        content = bytearray(content)
        content[int(at * (len(content) - 1))] ^= 0x10
        return bytes(content)
    return flipped


@pytest.mark.parametrize('damage', [
    lambda content: b'', lambda content: content[:100], lambda content: content[:-1],
    lambda content: content[:len(content) // 2], lambda content: content[:len(content) // 2] + bytes(len(content) // 2),
    flip(0.3), flip(0.7), lambda content: b'something else'],
    ids=['empty', 'head', 'a byte short', 'half', 'half and zeros', 'a bit early', 'a bit late', 'something else'])
def test_a_damaged_snapshot_is_skipped_for_the_one_before(damage, dataset, undisturbed, model, tmp_path):
    train(dataset, model, SETTINGS, stop=stop_after(5))
    newest = model / 'snapshot-5.npz'
    newest.write_bytes(damage(newest.read_bytes()))
    lines = []
    train(dataset, model, SETTINGS, resume=True, say=lines.append)
    assert len(lines) == 1 and lines[0].startswith(f'{newest}: ') and 'going on from snapshot-3.npz' in lines[0]
    assert left_by_training(model) == undisturbed


def test_without_a_sound_snapshot_nothing_is_touched(refused, dataset, dataset_dir, model):
    train(dataset, model, SETTINGS, stop=stop_after(5))
    for name in snapshots(model):
        (model / name).write_bytes((model / name).read_bytes()[:-30])
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    line = refused('train', dataset_dir, '-o', model, *OPTIONS, '--resume')
    assert all(str(model / name) in line for name in ('snapshot-3.npz', 'snapshot-5.npz')) and '--overwrite' in line
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    model = ShowAndTell(3, 4, 2, seed=0)
    save_snapshot(tmp_path / 's.npz', model)
    sound, content = to_arrays(model), (tmp_path / 's.npz').read_bytes()
    noticed = 0
    for at in range(0, len(content), 7):
        (tmp_path / 's.npz').write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1:])
        try:
            arrays = read_snapshot(tmp_path / 's.npz')
        except InputError as e:
            assert str(tmp_path / 's.npz') in str(e)
            noticed += 1
        else:
            assert arrays.keys() == sound.keys()        # a bit of the archive that says nothing, such as a date
            assert all(np.array_equal(arrays[name], sound[name]) for name in sound)
    assert noticed > 0.5 * len(content) / 7


def test_sound_archives_that_are_no_snapshots(tmp_path):
    files.write_npz(tmp_path / 's.npz', to_arrays(ShowAndTell(3, 4, 2)))
    with pytest.raises(InputError, match='checksum is missing'):
        read_snapshot(tmp_path / 's.npz')
    save_snapshot(tmp_path / 's.npz', ShowAndTell(3, 4, 2))
    with pytest.raises(InputError, match='not a snapshot of this training'):
        restore(read_snapshot(tmp_path / 's.npz'), ShowAndTell(3, 4, 5), tmp_path / 's.npz')


def test_a_snapshot_with_a_pickle_is_refused_and_nothing_runs(dataset, model, payload):
    train(dataset, model, ONE_KEPT, stop=stop_after(1))
    array = np.empty(1, object)
    array[0] = payload
    np.savez(model / 'snapshot-1.npz', **{**read_npz(model / 'snapshot-1.npz'), 'stop_trigger': array})
    with pytest.raises(InputError, match='pickle'):
        train(dataset, model, SETTINGS, resume=True)
    assert not payload.ran


# What goes wrong between two writes

class Crash(BaseException):
    """Nothing in the package catches it."""


def fail_at(monkeypatch, number, error):
    """Makes the numbered change of a name in a folder, a replacement or a deletion, fail. Returns how many came."""
    count = [0]

    def failing(function):
        def call(path, *args, **kwargs):
            if not str(path).endswith('writable') and 'cache' not in str(path):
                count[0] += 1
                if count[0] == number:
                    raise error
            return function(path, *args, **kwargs)
        return call
    monkeypatch.setattr(files.os, 'replace', failing(os.replace))
    monkeypatch.setattr(pathlib.Path, 'unlink', failing(pathlib.Path.unlink))
    return count


def count_changes(monkeypatch, *args, **kwargs):
    with monkeypatch.context() as patch:
        count = fail_at(patch, 0, None)
        train(*args, **kwargs)
    return count[0]


@pytest.mark.parametrize('begun', ['in an empty folder', 'over an old model', 'over the model it starts from'])
def test_a_crash_before_any_change_of_the_folder(begun, dataset, model, tmp_path, monkeypatch):
    old = tmp_path / 'old'
    train(dataset, old, Settings(epochs=1, hidden=16, batch_size=32, seed=1))
    start = {'start_from': model} if begun == 'over the model it starts from' else {}

    def prepare():
        shutil.rmtree(model, ignore_errors=True)
        if begun != 'in an empty folder':
            shutil.copytree(old, model)

    prepare()
    changes = count_changes(monkeypatch, dataset, model, SETTINGS, overwrite=True, **start)
    expected = left_by_training(model)
    assert changes > 12
    for number in range(1, changes + 1):
        prepare()
        with monkeypatch.context() as patch, pytest.raises(Crash):
            fail_at(patch, number, Crash())
            train(dataset, model, SETTINGS, overwrite=True, **start)
        if start:
            Bundle.load(model)                          # at every moment the old one or the new
        else:
            loads_or_says_why(model)
        config = json.loads((model / 'config.json').read_text()) if (model / 'config.json').exists() else None
        if config is None or config['training']['seed'] == 1:
            train(dataset, model, SETTINGS, overwrite=True, **start)
        else:
            train(dataset, model, SETTINGS, resume=True)
        assert left_by_training(model) == expected, f'stopped before change {number}'


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_what_cannot_be_written_is_named_and_the_rest_is_whole(code, refused, dataset, dataset_dir, undisturbed, model,
                                                               monkeypatch):
    changes = count_changes(monkeypatch, dataset, model, SETTINGS)
    for number in range(2, changes, 3):
        shutil.rmtree(model)
        with monkeypatch.context() as patch:
            fail_at(patch, number, OSError(code, os.strerror(code)))
            with pytest.raises(InputError) as caught:
                train(dataset, model, SETTINGS)
        line = str(caught.value)
        assert line.startswith(str(model)) and f'cannot be written ({os.strerror(code)})' in line, line
        loads_or_says_why(model)
        train(dataset, model, SETTINGS, resume=True)
        assert left_by_training(model) == undisturbed


def test_a_disk_that_gets_full_within_a_snapshot(dataset, undisturbed, model, monkeypatch):
    savez = np.savez

    def full(f, **arrays):
        if 'updater/iteration' in arrays and arrays['updater/iteration'] == UPDATES:
            f.write(bytes(100))
            raise OSError(errno.ENOSPC, 'No space left on device')
        savez(f, **arrays)
    with monkeypatch.context() as patch:
        patch.setattr(files.np, 'savez', full)
        with pytest.raises(InputError, match=r'snapshot-6\.npz: cannot be written \(No space left on device\)'):
            train(dataset, model, SETTINGS)
    assert snapshots(model) == ['snapshot-0.npz', 'snapshot-3.npz']
    assert not list(model.glob('.*')), 'the half of the new one is gone'
    train(dataset, model, SETTINGS, resume=True)
    assert left_by_training(model) == undisturbed


# What stands in the folder

def test_temporary_files_of_a_killed_training_are_cleared_away(dataset, model, monkeypatch):
    train(dataset, model, SETTINGS, stop=stop_after(2))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, 'unlink', lambda path: None)        # as after a kill, nothing is removed
        for name in ('weights.npz', 'snapshot-3.npz', 'log.json'):
            with pytest.raises(Crash), files.atomic_write(model / name) as f:
                f.write(b'half')
                raise Crash
    (model / '.notes').write_text('mine')
    (model / 'weights.npz.partial').write_text('mine')
    assert len(list(model.glob('.*'))) == 4
    train(dataset, model, SETTINGS, resume=True)
    assert [path.name for path in model.glob('.*')] == ['.notes']
    assert (model / 'weights.npz.partial').exists()


def test_overwriting_leaves_nothing_of_the_old_training(dataset, undisturbed, model):
    train(dataset, model, Settings(epochs=4, hidden=8, batch_size=8, keep_snapshots=9))
    train(dataset, model, SETTINGS, overwrite=True)
    assert left_by_training(model) == undisturbed


def test_one_training_at_a_time(refused, dataset, dataset_dir, model):
    train(dataset, model, SETTINGS, stop=stop_after(1))
    before = sorted(os.listdir(model))
    handle = os.open(model, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        line = refused('train', dataset_dir, '-o', model, *OPTIONS, '--resume')
        assert line.startswith(f'{model}: another training')
    finally:
        os.close(handle)
    assert sorted(os.listdir(model)) == before


def test_resuming_before_the_first_snapshot_needs_the_initial_weights_again(dataset, undisturbed, model, tmp_path):
    train(dataset, tmp_path / 'old', SETTINGS)
    arguments = {'settings': SETTINGS, 'start_from': tmp_path / 'old'}
    train(dataset, model, **arguments)
    expected = left_by_training(model)
    for name in [*snapshots(model), 'weights.npz', 'log.json']:
        (model / name).unlink()
    with pytest.raises(InputError, match='-m'):
        train(dataset, model, SETTINGS, resume=True)
    train(dataset, model, **arguments, resume=True)
    assert left_by_training(model) == expected
