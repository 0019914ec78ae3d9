"""Makes Chainer 7.8.1 of January 2022, unmodified, import and run on today's Python and NumPy.

It restores names of NumPy and of the standard library that Chainer uses and that were removed since; a name that exists
is never changed. The package imports it before Chainer, and other code may do the same. Sources: the release notes of
NumPy 1.24, 1.26 and 2.0 and of Python 3.12; setuptools' deprecation of pkg_resources."""
import atexit
import contextlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
import types
import warnings
from typing import Any

import numpy

# Removed in NumPy 1.24 (deprecated in 1.20): the aliases of Python's own types. Each was the builtin itself.
_ALIASES: dict[str, Any] = {'bool': bool, 'int': int, 'float': float, 'complex': complex, 'object': object, 'str': str}
# Removed in NumPy 2.0: numpy.sctypes, which Chainer's testing module and type checks iterate over.
_SCTYPES = {'int': ['int8', 'int16', 'int32', 'int64'], 'uint': ['uint8', 'uint16', 'uint32', 'uint64'],
            'float': ['float16', 'float32', 'float64', 'longdouble'],
            'complex': ['complex64', 'complex128', 'clongdouble'],
            'others': ['bool_', 'object_', 'bytes_', 'str_', 'void']}


def _restore_numpy_names() -> None:
    sctypes = {kind: [getattr(numpy, name) for name in names] for kind, names in _SCTYPES.items()}
    for name, value in {**_ALIASES, 'sctypes': sctypes}.items():
        # Not hasattr: NumPy answers for removed names with a warning or an error, and NumPy 2's own `numpy.bool` stays.
        if name not in numpy.__dict__:
            setattr(numpy, name, value)


def _restore_numpy_distutils() -> None:
    # Removed on Python 3.12. Chainer asks it which BLAS NumPy was built with; {} answers "not known". It is imported,
    # not only looked for: on Python 3.10 and 3.11 NumPy's may need a distutils that setuptools 74 removed.
    with contextlib.suppress(ImportError):
        importlib.import_module('numpy.distutils.system_info')
        return
    system_info: Any = types.ModuleType('numpy.distutils.system_info')
    system_info.get_info = lambda name, notfound_action=0: {}
    distutils: Any = types.ModuleType('numpy.distutils')
    distutils.system_info = system_info
    distutils.__path__ = []
    distutils.__spec__ = importlib.machinery.ModuleSpec('numpy.distutils', None, is_package=True)
    sys.modules.update({'numpy.distutils': distutils, 'numpy.distutils.system_info': system_info})


def _import_cupy() -> None:
    # CuPy 14 has no cuDNN, and Chainer would advise to reinstall CuPy. CuPy warns of a missing NCCL as soon as Chainer
    # asks for it, though one GPU needs none. Chainer itself handles a CuPy that is missing or fails.
    if importlib.util.find_spec('cupy') is None:
        return
    with contextlib.suppress(Exception):
        _find_kernel_cache()
        importlib.import_module('cupy')
        if importlib.util.find_spec('cupy.cudnn') is None:
            os.environ.setdefault('CHAINER_CUDNN', '0')
        importlib.import_module('cupy.cuda.nccl')


def _find_kernel_cache() -> None:
    # CuPy fails where its folder of compiled kernels cannot be made or written, as without a home. It then gets a
    # private folder that is deleted when this process ends.
    folder = os.environ.get('CUPY_CACHE_DIR', os.path.expanduser('~/.cupy/kernel_cache'))
    known = os.path.isabs(folder)                       # ~ is not expanded where there is no home
    with contextlib.suppress(OSError):
        if known:
            os.makedirs(folder, exist_ok=True)
    if not known or not os.access(folder, os.W_OK):
        os.environ['CUPY_CACHE_DIR'] = folder = tempfile.mkdtemp(prefix='chainer_caption-')
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


_restore_numpy_names()
with warnings.catch_warnings():
    # Chainer imports numpy.distutils, deprecated by NumPy 1.23, and pkg_resources, deprecated by setuptools 67.5 and
    # removed in 81. Users of this package cannot act on the warnings.
    warnings.simplefilter('ignore')
    _restore_numpy_distutils()
    importlib.import_module('pkg_resources')
    _import_cupy()
