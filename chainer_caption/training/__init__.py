"""Training: from a dataset and some settings to a model directory, by a `chainer.training.Trainer`.

`settings` is what a training is made of, `beginning` what it begins with, `objectives` what it aims at, `optimizer` how
it learns, `online_features` what it sees where the image encoder learns, too; `trainer` puts Chainer's pieces together,
and `run` runs them, safe against everything that may end it early. `train` is all of it; `make_trainer` is for models
and extensions of one's own.
"""
from chainer_caption.training.optimizer import make_optimizer
from chainer_caption.training.run import train
from chainer_caption.training.settings import Settings
from chainer_caption.training.trainer import make_converter, make_trainer

__all__ = ['Settings', 'make_converter', 'make_optimizer', 'make_trainer', 'train']
