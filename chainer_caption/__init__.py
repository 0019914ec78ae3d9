"""Train image captioners on precomputed features, and caption images with them, on Chainer.

    from chainer_caption import Captioner
    captioner = Captioner.load('model', encoder_weights='VGG_ILSVRC_19_layers.caffemodel')
    for result in captioner.caption('holiday/'):
        print(result.path, result.error or result.captions[0].text)
"""
from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# ONNX Runtime reports its use to its makers unless this is set before it is imported, by a thread of its own.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')

if TYPE_CHECKING:
    from chainer_caption.captioning.captioner import Captioner
    from chainer_caption.captioning.results import Caption, Result
    from chainer_caption.data.dataset import Dataset
    from chainer_caption.data.vocabulary import Vocabulary
    from chainer_caption.errors import InputError
    from chainer_caption.models.bundle import Bundle
    from chainer_caption.training.run import train
    from chainer_caption.training.settings import Settings

__version__ = '1.0.0'

# Each name and its module, which is imported when the name is first used (PEP 562): Chainer and Numba take a second and
# more to import, which `-h` does not need.
_MODULES = {'Bundle': 'models.bundle', 'Caption': 'captioning.results', 'Captioner': 'captioning.captioner',
            'InputError': 'errors', 'Dataset': 'data.dataset', 'Result': 'captioning.results',
            'Settings': 'training.settings', 'Vocabulary': 'data.vocabulary', 'train': 'training.run'}

__all__ = ['Bundle', 'Caption', 'Captioner', 'Dataset', 'InputError', 'Result', 'Settings', 'Vocabulary', 'train']


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


class _BeforeChainer:
    """An entry of `sys.meta_path` that finds nothing: it imports `compat` just before Chainer is imported, by this
    package or by any other code."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        # It stays in the list: a removal during the search would skip the next finder.
        if name == 'chainer':
            importlib.import_module('chainer_caption.compat')


sys.meta_path.insert(0, _BeforeChainer())
