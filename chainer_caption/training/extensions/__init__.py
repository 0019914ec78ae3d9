"""Trainer extensions in addition to Chainer's: how a training is watched, and which epoch is kept.

At the end of an epoch `TokenEvaluator` and `CaptionScores` measure, `KeepBest` keeps the weights, `Log` writes the log,
and `PrintTable`, `Curves`, `RunPage` and `Events` show it; these keep no state that a resumed training would need.
"""
from chainer_caption.training.extensions.best import FIGURES, KeepBest
from chainer_caption.training.extensions.curves import LOSS, SCORES, Curves
from chainer_caption.training.extensions.events import FILES, FOLDER, Events, check_tensorboard
from chainer_caption.training.extensions.log import EveryEpochs, Log, TellDivergence
from chainer_caption.training.extensions.run_page import PAGE, RunPage
from chainer_caption.training.extensions.scores import CaptionScores, TokenEvaluator, scored_images
from chainer_caption.training.extensions.terminal import PrintTable, ProgressBar

__all__ = ['FIGURES', 'WATCHED', 'CaptionScores', 'Curves', 'Events', 'EveryEpochs', 'KeepBest', 'Log', 'PrintTable',
           'ProgressBar', 'RunPage', 'TellDivergence', 'TokenEvaluator', 'check_tensorboard', 'scored_images']

# What they write into the folder of a training, as patterns; a training that replaces another's removes them.
WATCHED = (LOSS, SCORES, PAGE, f'{FOLDER}/{FILES}')
