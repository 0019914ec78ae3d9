"""Makes Chainer 7.8.1, unmodified, import and run on today's Python and NumPy.

Chainer's last release is of January 2022; what it uses of NumPy and of the standard library has been removed since.
This module puts back just that, and only where it is missing: a name that exists is never touched, so on an old
NumPy or Python importing it does nothing. The package imports it before Chainer; other code may do the same::

    import chainer_caption.compat
    import chainer

Sources: the release notes of NumPy 1.24, 1.26 and 2.0 and of Python 3.12; setuptools' deprecation of pkg_resources.
"""
import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings

import numpy

# Removed in NumPy 1.24 (deprecated in 1.20): the aliases of Python's own types. Each was the builtin itself.
_ALIASES = {'bool': bool, 'int': int, 'float': float, 'complex': complex, 'object': object, 'str': str}

# Removed in NumPy 2.0: numpy.sctypes, which Chainer's testing module and type checks iterate over.
_SCTYPES = {
    'int': ['int8', 'int16', 'int32', 'int64'],
    'uint': ['uint8', 'uint16', 'uint32', 'uint64'],
    'float': ['float16', 'float32', 'float64', 'longdouble'],
    'complex': ['complex64', 'complex128', 'clongdouble'],
    'others': ['bool_', 'object_', 'bytes_', 'str_', 'void'],
}


def _restore_numpy_names():
    # `numpy.__dict__` is asked, not hasattr: NumPy answers for removed names with a warning or an error of its own,
    # and NumPy 2 has its own `numpy.bool`, which stays.
    names = numpy.__dict__
    for name, builtin in _ALIASES.items():
        if name not in names:
            setattr(numpy, name, builtin)
    if 'sctypes' not in names:
        restored = {kind: [getattr(numpy, t) for t in types_] for kind, types_ in _SCTYPES.items()}
        setattr(numpy, 'sctypes', restored)  # noqa: B010 (the linter would rewrite numpy.sctypes as removed)


def _restore_numpy_distutils():
    # Removed on Python 3.12, with the distutils it was built on: numpy.distutils. Chainer asks it which BLAS NumPy was
    # built with, for `chainer.print_runtime_info()` and a warning about macOS's Accelerate; {} answers "not known".
    # A module that is there may be somebody's stand-in, which find_spec would refuse for having no __spec__.
    if sys.modules.get('numpy.distutils') is not None or importlib.util.find_spec('numpy.distutils') is not None:
        return
    system_info = types.ModuleType('numpy.distutils.system_info')
    system_info.get_info = lambda name, notfound_action=0: {}
    distutils = types.ModuleType('numpy.distutils')
    distutils.system_info = system_info
    distutils.__path__ = []
    distutils.__spec__ = importlib.machinery.ModuleSpec('numpy.distutils', None, is_package=True)
    sys.modules['numpy.distutils'] = distutils
    sys.modules['numpy.distutils.system_info'] = system_info


def _import_noisy_modules_quietly():
    # Deprecated where they still exist, and imported by Chainer as it starts: numpy.distutils (NumPy 1.23, Python 3.10
    # and 3.11) and pkg_resources (setuptools 67.5; removed in 81, below which the distribution pins it). What they
    # warn of is answered here and is nothing that users of this package could act on. And CuPy, where it is installed:
    # since CuPy 14 it warns of a missing NCCL, which one GPU does not need; Chainer deals with a CuPy that fails.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        importlib.import_module('numpy.distutils.system_info')
        importlib.import_module('pkg_resources')
        with contextlib.suppress(Exception):
            importlib.import_module('cupy')


_restore_numpy_names()
_restore_numpy_distutils()
_import_noisy_modules_quietly()
