"""Train image captioners from features computed beforehand, and caption images with them, on Chainer.

    from chainer_caption import Captioner
    captioner = Captioner.load('model', encoder_weights='VGG_ILSVRC_19_layers.caffemodel')
    for result in captioner.caption('holiday/'):
        print(result.path, result.error or result.captions[0].text)
"""
import importlib
import sys

__version__ = '1.0.0'

# Each name and the module that it comes from, which is imported when the name is first asked for (PEP 562): Chainer and
# Numba take a second and more, which nobody should wait who only wants to see how a command is called.
_MODULES = {'Bundle': 'models.bundle', 'Caption': 'captioning.results', 'Captioner': 'captioning.captioner',
            'InputError': 'errors', 'Dataset': 'data.dataset', 'Result': 'captioning.results',
            'Settings': 'training.settings', 'Vocabulary': 'data.vocabulary', 'train': 'training.run'}

__all__ = ['Bundle', 'Caption', 'Captioner', 'Dataset', 'InputError', 'Result', 'Settings', 'Vocabulary', 'train']


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
    return value


def __dir__():
    return sorted({*globals(), *_MODULES})


class _BeforeChainer:
    """An entry of `sys.meta_path` that finds nothing: it has `compat` imported just before Chainer is, be it by this
    package or by somebody who has imported this package."""

    def find_spec(self, name, path=None, target=None):
        if name == 'chainer':
            # The entry stays: to remove it while Python iterates over the list would skip the next finder.
            importlib.import_module('chainer_caption.compat')


sys.meta_path.insert(0, _BeforeChainer())
