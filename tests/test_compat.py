"""compat.py in fresh interpreters, where warnings are errors: it mends what is missing and touches nothing else."""
import os
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def fresh(package_environment, tmp_path):
    """Runs code in a fresh interpreter and returns what it prints."""
    def run(code, environment=package_environment):
        done = subprocess.run([sys.executable, '-W', 'error', '-c', textwrap.dedent(code)], cwd=tmp_path,
                              env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ''
        return done.stdout
    return run


# compat alone, as the first thing that is imported: the package itself would bring Chainer along.
ALONE = '''
    import importlib.util, os, sys
    path = os.path.join(os.environ['PYTHONPATH'].split(os.pathsep)[0], 'chainer_caption', 'compat.py')
    def load():
        spec = importlib.util.spec_from_file_location('compat', path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
'''


def test_chainer_imports_and_learns(fresh):
    fresh('''
        import chainer_caption.compat
        import chainer, chainer.links as L, chainer.testing
        import numpy as np
        lstm, x = L.LSTM(3, 4), np.ones((2, 3), np.float32)
        optimizer = chainer.optimizers.Adam().setup(lstm)
        def loss():
            lstm.reset_state()
            lstm(x)
            return chainer.functions.sum(lstm(x))
        before = loss().array
        for _ in range(3):
            optimizer.update(loss)
        assert abs(lstm.lateral.W.grad).max() > 0 and loss().array < before
    ''')


def test_missing_names_are_restored(fresh):
    fresh(ALONE + '''
    import numpy
    for name in ('bool', 'int', 'float', 'complex', 'object', 'str', 'sctypes'):
        numpy.__dict__.pop(name, None)
    load()
    assert (numpy.bool, numpy.int, numpy.float, numpy.complex, numpy.object, numpy.str) == (
        bool, int, float, complex, object, str)
    assert numpy.float32 in numpy.sctypes['float'] and numpy.uint8 in numpy.sctypes['uint']
    assert set(numpy.sctypes) == {'int', 'uint', 'float', 'complex', 'others'}
    assert all(isinstance(t, type) and issubclass(t, numpy.generic) for kind in numpy.sctypes.values() for t in kind)
    ''')


def test_names_that_exist_are_not_touched(fresh):
    fresh(ALONE + '''
    import numpy
    there = {name: numpy.__dict__[name] for name in list(numpy.__dict__)}
    numpy.sctypes = there['sctypes'] = {'float': ['mine']}
    numpy.int = there['int'] = mine = object()
    load()
    load()
    assert {name: value for name, value in numpy.__dict__.items() if name in there} == there
    assert numpy.int is mine and numpy.sctypes is there['sctypes']
    assert 'bool' not in there or numpy.bool is numpy.bool_
    ''')


def test_distutils_is_restored_where_it_is_gone(fresh):
    # None in sys.modules: Python's own way of saying that there is no such module, as from Python 3.12 on.
    fresh(ALONE + '''
    sys.modules['numpy.distutils'] = None
    load()
    import numpy.distutils.system_info
    from numpy.distutils.system_info import get_info
    assert get_info('blas_opt') == {} and get_info('lapack', notfound_action=2) == {}
    first = sys.modules['numpy.distutils']
    load()
    assert sys.modules['numpy.distutils'] is first
    ''')


def test_distutils_that_cannot_be_imported_is_replaced(fresh):
    # As that of NumPy 2.0 on Python 3.11 beside setuptools 74: a package that is found, and fails within.
    fresh(ALONE + '''
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name.startswith('numpy.distutils'):
                return importlib.util.spec_from_loader(name, self, is_package=True)
        def create_module(self, spec):
            return None
        def exec_module(self, module):
            import distutils.no_such_compiler
    sys.meta_path.insert(0, Broken())
    load()
    import numpy.distutils.system_info
    from numpy.distutils.system_info import get_info
    assert get_info('blas_opt') == {}
    import chainer
    ''')


@pytest.mark.skipif(sys.version_info < (3, 12), reason='numpy.distutils is still there')
def test_distutils_on_new_pythons(fresh):
    assert fresh('''
        import chainer_caption.compat
        from numpy.distutils.system_info import get_info
        print(get_info('blas_opt'))
    ''') == '{}\n'


def test_distutils_of_others_is_left_alone(fresh):
    # A stand-in that some other code has made for Chainer, with no more care than was needed.
    fresh(ALONE + '''
    import types
    stand_in, info = types.ModuleType('numpy.distutils'), types.ModuleType('numpy.distutils.system_info')
    stand_in.system_info = info
    info.get_info = lambda name: {'mine': name}
    sys.modules['numpy.distutils'], sys.modules['numpy.distutils.system_info'] = stand_in, info
    load()
    assert sys.modules['numpy.distutils'] is stand_in and sys.modules['numpy.distutils.system_info'] is info
    assert info.get_info('x') == {'mine': 'x'}
    import chainer
    ''')


def test_importing_again_is_harmless(fresh):
    fresh('''
        import importlib, sys
        import chainer_caption.compat
        import numpy
        before = dict(numpy.__dict__)
        distutils = sys.modules['numpy.distutils']
        importlib.reload(chainer_caption.compat)
        import chainer
        importlib.reload(chainer_caption.compat)
        assert all(numpy.__dict__[name] is value for name, value in before.items())
        assert sys.modules['numpy.distutils'] is distutils
    ''')


def test_nothing_warns_with_cupy_14(fresh, cupy_environment):
    fresh('''
        import chainer_caption, chainer
        from chainer.backends import cuda
        cuda.check_cuda_available()
        assert cuda.available and not cuda.cudnn_enabled
    ''', cupy_environment)


def test_cupy_needs_no_home(fresh, cupy_environment, tmp_path):
    (tmp_path / 'file').write_text('')
    nowhere = tmp_path / 'file' / 'home'                # where root can write no more than others
    folder = fresh('''
        import chainer_caption, chainer, os
        assert chainer.backends.cuda.available
        folder = os.environ['CUPY_CACHE_DIR']
        assert os.stat(folder).st_mode & 0o777 == 0o700
        open(f'{folder}/kernel', 'w').close()
        print(folder)
    ''', {**cupy_environment, 'HOME': str(nowhere), 'TMPDIR': str(tmp_path)}).strip()
    assert folder.startswith(f'{tmp_path}/') and not os.path.exists(folder)


def test_the_import_hook_skips_no_other_finder(fresh):
    # It came just before another one, which must still be asked for Chainer.
    assert fresh('''
        import sys
        import chainer_caption
        class Next:
            def find_spec(self, name, path=None, target=None):
                if name == 'chainer':
                    print('asked')
        sys.meta_path.insert(1, Next())
        import chainer
    ''') == 'asked\n'
