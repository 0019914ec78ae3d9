"""The main path without what Linux alone has: locks, limits, /proc, preallocation and the like are taken away."""
import subprocess
import sys
import textwrap

import pytest
from conftest import draw_images, write_dataset

# Python runs it at the start of each process, also of those that the package starts.
ELSEWHERE = '''
    import builtins, ctypes, io, os, sys
    for name in 'fcntl', 'resource':
        sys.modules[name] = None
    for name in 'posix_fallocate', 'posix_fadvise', 'sched_getaffinity', 'sched_setaffinity', 'O_CLOEXEC', 'fchmod':
        delattr(os, name)
    really_open = open
    def no_proc(file, *args, **kwargs):
        # threadpoolctl finds loaded libraries in the one that is left, and has other ways on other systems.
        if str(file).startswith(('/proc/', '/sys/')) and str(file) != '/proc/self/maps':
            raise FileNotFoundError(2, 'No such file or directory', str(file))
        return really_open(file, *args, **kwargs)
    builtins.open = io.open = no_proc
    class Library(ctypes.CDLL):
        def __getattr__(self, name):
            if name in ('mallopt', 'malloc_trim', 'prctl'):
                raise AttributeError(name)
            return super().__getattr__(name)
    ctypes.CDLL = Library
'''

PROGRAM = '''
    import sys
    from chainer_caption import cli
    def call(*arguments):
        assert cli.main(list(arguments)) == 0, arguments
    call('train', 'dataset', '-o', 'model', '--epochs', '1', '--hidden', '8', '--batch-size', '32')
    call('train', 'dataset', '-o', 'model', '--epochs', '2', '--hidden', '8', '--batch-size', '32', '--resume')
    call('generate', '-m', 'model', '--dataset', 'dataset', '--split', 'test', '-o', 'captions.jsonl')
    call('evaluate', 'dataset', '--captions', 'captions.jsonl', '--split', 'test')
    call('extract_features', 'images', '--encoder', 'demo', '-o', 'features')
    call('generate', '-m', 'demo', 'images', '-o', 'captions.html')
    assert sys.modules['fcntl'] is None
'''


@pytest.fixture
def elsewhere(package_environment, tmp_path):
    """The environment of a process on another system."""
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'sitecustomize.py').write_text(textwrap.dedent(ELSEWHERE))
    return {**package_environment, 'PYTHONPATH': f'{tmp_path / "site"}:{package_environment["PYTHONPATH"]}'}


def run(program, environment, folder):
    return subprocess.run([sys.executable, '-c', textwrap.dedent(program)], env=environment, cwd=folder,
                          capture_output=True, text=True, check=False)


def test_the_main_path_needs_nothing_of_linux(elsewhere, demo_model, tmp_path):
    write_dataset(tmp_path / 'dataset')
    draw_images(tmp_path / 'images', 3)
    (tmp_path / 'demo').symlink_to(demo_model)
    done = run(PROGRAM, elsewhere, tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"caption"' in (tmp_path / 'captions.jsonl').read_text('utf-8')
    assert done.stderr.count('cannot be locked here') >= 1      # once for each file, and work goes on


def test_without_limits_a_matrix_is_refused_by_its_declared_size(elsewhere, tmp_path):
    # 100 bytes that declare a matrix of 8 TB: SciPy would allocate first.
    import numpy as np
    import scipy.io
    path = tmp_path / 'vgg_feats.mat'
    scipy.io.savemat(path, {'feats': np.zeros((4, 4))})
    data = bytearray(path.read_bytes())
    at = data.index((4).to_bytes(4, 'little') * 2)              # the dimensions
    data[at:at + 8] = (2 ** 20).to_bytes(4, 'little') * 2
    path.write_bytes(data)
    done = run("""
        from chainer_caption.data import matlab
        from chainer_caption.errors import InputError
        try:
            with matlab.open_matlab('vgg_feats.mat', 'feats') as (shape, dtype, blocks, begin):
                next(iter(blocks()))
        except InputError as e:
            print(e)
    """, elsewhere, tmp_path)
    assert 'declares 8,796,093,022,208 bytes' in done.stdout, (done.stdout, done.stderr)
