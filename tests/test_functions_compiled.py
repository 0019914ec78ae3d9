"""What stands behind the compiled loops: where they are kept, the threads they run in, the arrays they write into."""
import gc
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import threadpoolctl

from chainer_caption.functions import buffers, compiled
from chainer_caption.functions.cpu_count import cpu_quota, thread_count
from chainer_caption.functions.matmul import one_blas_thread

ROOT = pathlib.Path(__file__).resolve().parents[1]


# ---- Kept where there is a place, and not needed

@pytest.fixture
def read_only(package_environment, tmp_path):
    """The package in a folder that cannot be written, in the environment of a user whose home cannot be written either:
    (folder, environment). Files stand where folders would be made, which stops root as well as others."""
    installed = tmp_path / 'installed'
    for name in 'chainer_caption', 'scripts':
        shutil.copytree(ROOT / name, installed / name, ignore=shutil.ignore_patterns('__pycache__'))
    for folder in {path.parent for path in installed.rglob('*.py')}:
        (folder / '__pycache__').write_text('')
    (tmp_path / 'file').write_text('')
    environment = {**package_environment, 'PYTHONPATH': str(installed), 'HOME': str(tmp_path / 'file' / 'home')}
    return installed, {name: value for name, value in environment.items()
                       if name not in ('XDG_CACHE_HOME', 'NUMBA_CACHE_DIR')}


def test_a_read_only_installation_without_a_home_captions_a_image(read_only, demo_model):
    installed, environment = read_only
    command = (sys.executable, installed / 'scripts' / 'generate.py', '-m', demo_model, '--top', '1',
               '--beam-width', '2', '--quiet')
    image = ROOT / 'features' / 'demo' / 'unseen' / '01.png'
    done = subprocess.run([*command, image], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    assert len(done.stdout.splitlines()) == 2
    # A folder that the user names is taken.
    cache = installed.with_name('cache')
    done = subprocess.run([sys.executable, '-c', 'from chainer_caption.functions.dropout import _mask as f; '
                           'print(f.stats.cache_path)'], capture_output=True, text=True, check=True,
                          env={**environment, 'NUMBA_CACHE_DIR': str(cache)})
    assert done.stdout.startswith(f'{cache}/')


def test_nothing_is_kept_in_the_current_folder_where_nobody_knows_the_home(read_only, tmp_path):
    environment = read_only[1]
    program = '''if True:
        import os, pwd, sys
        def unknown(uid):
            raise KeyError(uid)
        pwd.getpwuid = unknown
        assert os.path.expanduser('~') == '~'
        import chainer_caption.functions
        print(os.listdir())'''
    empty = tmp_path / 'empty'
    empty.mkdir()
    done = subprocess.run([sys.executable, '-c', program], cwd=empty, capture_output=True, text=True, check=True,
                          env={name: value for name, value in environment.items() if name != 'HOME'})
    assert done.stdout == '[]\n'


# ---- Threads

def test_there_is_one_pool_of_threads_however_many_rows(monkeypatch):
    started = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, 'start', lambda self: (started.append(self), start(self)))
    monkeypatch.setattr(compiled, 'thread_count', lambda: 4)
    compiled._pool.cache_clear()
    for _ in range(20):
        for rows in 2, 3, 4, 5, 100:
            done = np.zeros(rows, int)

            def loop(done, start, stop):
                done[start:stop] += 1
            compiled.parallel_for(loop, rows, done)
            assert (done == 1).all()
    compiled._pool.cache_clear()
    assert 1 <= len(started) <= 3


def test_blas_is_told_to_take_one_thread():
    with one_blas_thread():
        told = [library for library in threadpoolctl.threadpool_info() if library['user_api'] == 'blas']
        assert any('numpy' in library['filepath'] for library in told)
        assert {library['num_threads'] for library in told} == {1}


V1, V2 = '4:memory:/a/b\n3:cpu,cpuacct:/a/b\n0::/other\n', '0::/a/b\n'


@pytest.mark.parametrize(('groups', 'files', 'quota'), [
    (V2, {}, np.inf),
    (V2, {'a/b/cpu.max': 'max 100000'}, np.inf),
    (V2, {'a/b/cpu.max': '150000 100000'}, 1.5),
    (V2, {'a/b/cpu.max': 'max 100000', 'a/cpu.max': '50000 100000'}, 0.5),      # a group above limits, too
    (V2, {'a/b/cpu.max': '100000 100000', 'a/cpu.max': '400000 100000'}, 1),
    (V2, {'cpu.max': '300000 100000'}, 3),                                      # a container that sees its own root
    ('0::/\n', {'cpu.max': '300000 100000'}, 3),
    (V2, {'a/b/cpu.max': 'nonsense'}, np.inf),
    (V1, {'cpu/a/b/cpu.cfs_quota_us': '-1', 'cpu/a/b/cpu.cfs_period_us': '100000'}, np.inf),
    (V1, {'cpu/a/b/cpu.cfs_quota_us': '250000', 'cpu/a/b/cpu.cfs_period_us': '100000'}, 2.5),
    (V1, {'cpu/cpu.cfs_quota_us': '200000', 'cpu/cpu.cfs_period_us': '100000'}, 2),
    (None, {'cpu.max': '300000 100000'}, np.inf),                               # no such thing as groups
])
def test_the_processor_time_that_control_groups_leave(groups, files, quota, tmp_path):
    for name, text in files.items():
        path = tmp_path / 'mount' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{text}\n')
    if groups is not None:
        (tmp_path / 'groups').write_text(groups)
    assert cpu_quota(str(tmp_path / 'groups'), str(tmp_path / 'mount')) == quota


@pytest.mark.parametrize(('told', 'quota', 'threads'), [
    (None, np.inf, 8), (None, 16.0, 8), (None, 1.5, 2), (None, 0.1, 1), ('3', 0.1, 3), ('0', np.inf, 1)])
def test_how_many_threads(told, quota, threads, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)))
    monkeypatch.setattr('chainer_caption.functions.cpu_count.cpu_quota', lambda: quota)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if told is not None:
        monkeypatch.setenv('OMP_NUM_THREADS', told)
    assert thread_count() == threads


# ---- Buffers

def test_arrays_may_be_given_back_while_one_is_taken(monkeypatch):
    """The garbage collector, which gives back those of graphs that are gone, may start at any moment, in `take` too."""
    monkeypatch.setattr(buffers, '_lock', threading.Lock())         # one that is held for ever is no other test's
    monkeypatch.setattr(buffers, '_KEPT', 1000)                     # and none is dropped that comes in between
    spare = [buffers.acquire(np, (n,)) for n in (10, 20, 30, 40)]
    given = []

    def give(phase, info):
        if phase == 'start':
            given.append(phase)
            buffers.release(spare[len(given) % len(spare)].copy())

    def work():
        threshold = gc.get_threshold()
        gc.callbacks.append(give)
        gc.set_threshold(1)
        try:
            for n in [7, 25, 12, 41, 33] * 20:
                array = buffers.acquire(np, (n,))
                array[:] = n
                taken.append(array.shape == (n,) and (array == n).all())
                buffers.release(array)
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(give)

    taken = []
    # One that waits for itself would wait for ever.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(30)
    assert not worker.is_alive()
    assert len(given) > 100 and taken == [True] * 100


def test_an_array_that_was_given_back_is_taken_again(monkeypatch):
    monkeypatch.setattr(buffers, '_free', [])
    array = buffers.acquire(np, (1000, 1000))
    buffers.release(array)
    assert np.shares_memory(buffers.acquire(np, (999, 999)), array)


# ---- Arithmetic

def test_exp_and_tanh_are_exact_relative_to_their_values():
    @compiled.compiled
    def apply(x, e, t):
        for i in range(len(x)):
            e[i] = compiled.exp(x[i])
            t[i] = compiled.tanh(x[i])
    sizes = 10.0 ** np.linspace(-37, 1.9, 20_001)
    x = np.concatenate([sizes, -sizes, [0, -np.inf, -88]]).astype(np.float32)
    e, t = np.empty_like(x), np.empty_like(x)
    apply(x, e, t)
    with np.errstate(invalid='ignore'):
        exact = np.exp(x.astype(np.float64))
        np.testing.assert_allclose(t, np.tanh(x.astype(np.float64)), rtol=4e-7)
    np.testing.assert_allclose(e, np.where(exact < 1.2e-38, 0, exact), rtol=2e-7)
    assert e[-2] == e[-1] == 0
