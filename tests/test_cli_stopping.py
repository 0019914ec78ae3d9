"""Ctrl-C and SIGTERM: a training ends in good order, and goes on as if it had not."""
import os
import signal
import subprocess
import sys
import threading
import unittest.mock

import pytest
from conftest import left_by_training

from chainer_caption import Dataset, Settings, train
from chainer_caption.cli.stopping import Stopping
from chainer_caption.data import batches
from chainer_caption.storage import files

# Three updates an epoch.
SETTINGS = Settings(epochs=2, hidden=16, batch_size=32)
OPTIONS = '--epochs', '2', '--hidden', '16', '--batch-size', '32'
UPDATES = 6


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Drawing, and waiting for the disk, would take most of the time.
    monkeypatch.setattr('chainer_caption.training.extensions.curves._draw', lambda f, curves, measure: None)
    monkeypatch.setattr(files.os, 'fsync', lambda handle: None)


@pytest.fixture(scope='module')
def undisturbed(dataset_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed') / 'model'
    train(Dataset(dataset_dir), folder, SETTINGS)
    return left_by_training(folder)


@pytest.fixture
def model(tmp_path):
    return tmp_path / 'model'


@pytest.fixture
def signalled(monkeypatch):
    """Has a signal sent to this process in the middle of an update."""
    def arrange(number, update):
        calls = iter(range(1, 1000))
        pack = batches.PackCaptions.__call__

        def interrupted(*args):
            if next(calls) == update:
                os.kill(os.getpid(), number)
            return pack(*args)
        monkeypatch.setattr(batches.PackCaptions, '__call__', interrupted)
    return arrange


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize('update', [2, 3])
def test_signals_end_a_training_in_good_order(number, status, update, call, signalled, dataset_dir, undisturbed, model):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signalled(number, update)
    got, _, err = call('train', dataset_dir, '-o', model, *OPTIONS)
    assert got == status
    assert err.count('\n') == 1 and err.startswith(f'stopped at update {update}') and '--resume goes on' in err
    assert ('before the end of an epoch' in err) == (update < 3)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert call('generate', '-m', model, '--dataset', dataset_dir)[0] == 0
    assert call('train', dataset_dir, '-o', model, *OPTIONS, '--resume')[0] == 0
    left = left_by_training(model)
    assert all(left[name] == undisturbed[name] for name in undisturbed)


def test_a_signal_in_the_last_update_changes_nothing(call, signalled, dataset_dir, undisturbed, model):
    signalled(signal.SIGINT, UPDATES + 1)               # one of the calls is for validation
    assert call('train', dataset_dir, '-o', model, *OPTIONS)[::2] == (0, '')
    assert left_by_training(model) == undisturbed


def test_a_second_signal_kills_at_once(package_environment, dataset_dir, model):
    program = '''if True:
        import os, signal, sys
        from chainer_caption import cli
        from chainer_caption.data import batches
        def twice(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            print('asked', flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            print('still there')
        batches.PackCaptions.__call__ = twice
        sys.exit(cli.run('train', sys.argv[1:]))'''
    done = subprocess.run([sys.executable, '-c', program, dataset_dir, '-o', model, *OPTIONS], env=package_environment,
                          capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b'asked\n', b'')


def test_the_library_takes_no_signals(dataset_dir, model, monkeypatch):
    monkeypatch.setattr(signal, 'signal', unittest.mock.Mock(side_effect=AssertionError))
    train(Dataset(dataset_dir), model, SETTINGS)


def test_signals_of_other_threads_and_ignored_ones_are_left_alone(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping() as stop:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop() and stop.status == 0
    finally:
        signal.signal(signal.SIGINT, before)
    failed = []

    def elsewhere():
        try:
            with Stopping() as stop:
                assert not stop()
        except BaseException as e:
            failed.append(e)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not failed
