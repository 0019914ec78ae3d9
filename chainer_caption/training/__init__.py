"""Training: from a dataset and settings to a model directory, with a `chainer.training.Trainer`.

`settings` has the settings, `plan` where vocabulary and weights come from, `objectives` what is minimized,
`online_features` the features of an encoder that is fine-tuned. `updater` is the core loop, `trainer` adds the
optimizer and the extensions, and `run` runs it safely. `train` does all of it; `make_trainer` is for models and
extensions of your own.
"""
import importlib
from typing import Any

# Imported when first asked for: the command line reads `settings` without Chainer.
_MODULES = {'OBJECTIVES': 'updater', 'Objective': 'updater', 'Settings': 'settings', 'make_converter': 'trainer',
            'make_optimizer': 'trainer', 'make_trainer': 'trainer', 'make_updater': 'updater',
            'register_objective': 'updater', 'train': 'run'}

__all__ = ['OBJECTIVES', 'Objective', 'Settings', 'make_converter', 'make_optimizer', 'make_trainer', 'make_updater',
           'register_objective', 'train']


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
