"""compat.py in fresh interpreters, where warnings are errors: it mends what is missing and touches nothing else."""
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def fresh(package_environment, tmp_path):
    """Runs code in a fresh interpreter and returns what it prints."""
    def run(code):
        done = subprocess.run([sys.executable, '-W', 'error', '-c', textwrap.dedent(code)], cwd=tmp_path,
                              env=package_environment, capture_output=True, text=True, check=False)
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
