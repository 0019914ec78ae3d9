"""Core of training: an objective gives minibatches and their loss; a Chainer updater minimizes it."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import chainer

from chainer_caption.errors import InputError

#: The registered objectives by name.
OBJECTIVES: dict[str, type[Objective]] = {}

#: Takes a line for the user.
Say = Callable[[str], None]


class Objective:
    """What a training minimizes. A subclass is registered, so that a model directory can record it by name::

        @register_objective('label-smoothing')
        @dataclasses.dataclass
        class LabelSmoothing(CrossEntropy):
            smoothing: float = 0.1

            def loss(self, update, features, words, targets, batch_sizes, tokens=None, images=None): ...

    The fields of a dataclass are its parameters, each with a default. `config.json` records them, and a resumed
    training must have the same. A parameter with the name of a setting takes the setting's value.
    """
    name: ClassVar[str] = ''                                    #: the registered name
    reports: ClassVar[tuple[str, ...]] = ('main/loss',)         #: log names of what `loss` reports; `main/loss` first
    columns: ClassVar[tuple[str, ...]] = ('main/loss',)         #: those of them that are printed
    per_token: ClassVar[bool] = False           #: `main/loss` is in nats per token, so that it has a perplexity
    requires_model: ClassVar[bool] = False      #: starts from a trained model, which is scored before the first update
    #: A minibatch is the numbers of images, and `loss` computes their features; otherwise it is packed captions, and
    #: with an encoder that is fine-tuned they are packed from a minibatch of images.
    by_image: ClassVar[bool] = False
    learning_rate: ClassVar[float] = 0.001      #: default of the setting
    keep_best: ClassVar[str] = 'loss'           #: default of the setting

    iterator: Any                               #: Chainer iterator over the training examples, set by `setup`
    converter: Any                              #: converter of its minibatches, set by `setup`
    captions: int                               #: number of captions in an epoch, set by `setup`

    def check(self, dataset: Any, bundle: Any) -> None:
        """Raises InputError where the model or the dataset is unfit; called before any file is written."""

    def setup(self, dataset: Any, bundle: Any, settings: Any, converter: Any, processes: Any, notice: Say) -> None:
        """Sets `iterator`, `converter` and `captions`.

        Args:
            dataset, settings, processes: As for `make_trainer`.
            bundle: Bundle with the model, on its device, and the vocabulary.
            converter: Converter of caption minibatches (`make_converter`), or OnlineFeatures.
            notice: Takes a line for the user.
        """
        raise NotImplementedError

    def loss(self, update: int, *batch: Any) -> chainer.Variable:
        """Loss of a converted minibatch in update number `update`, (), which reports on the model."""
        raise NotImplementedError

    @classmethod
    def parameter_names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []

    def parameters(self) -> dict[str, Any]:
        """The parameters and their values."""
        return {name: getattr(self, name) for name in self.parameter_names()}


_Kind = TypeVar('_Kind', bound=type[Objective])


def register_objective(name: str) -> Callable[[_Kind], _Kind]:
    """Class decorator that registers an Objective under a name, for `Settings`, `config.json` and `--objective`."""
    def register(kind: _Kind) -> _Kind:
        other = OBJECTIVES.get(name, kind)
        if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ValueError(f'objective {name!r} is {other.__module__}.{other.__qualname__} already')
        kind.name, OBJECTIVES[name] = name, kind
        return kind
    return register


def find_objective(name: str) -> type[Objective]:
    """The objective registered under a name. Raises InputError where there is none."""
    if name not in OBJECTIVES:
        raise InputError.of('objective', name, f'register {name!r} first: --import the module that defines it (known '
                            f'are {", ".join(OBJECTIVES)})')
    return OBJECTIVES[name]


def make_updater(objective: Objective, target: chainer.Link, optimizer: Any, device: Any) -> Any:
    """A Chainer StandardUpdater: its `update()` takes a minibatch of an objective that is set up, computes its loss and
    changes the weights of the target, with which a Chainer optimizer is set up unless it is already."""
    if optimizer.target is None:
        optimizer.setup(target)
    updater: Any = chainer.training.updaters.StandardUpdater(
        objective.iterator, optimizer, converter=objective.converter, device=device,
        loss_func=lambda *batch: objective.loss(updater.iteration, *batch))
    return updater
