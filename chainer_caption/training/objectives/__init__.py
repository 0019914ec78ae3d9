"""Objectives: cross-entropy of the reference captions, and self-critical sequence training (SCST)."""
import dataclasses
from typing import Any

from chainer_caption.data.text import Text
from chainer_caption.errors import InputError
from chainer_caption.training.objectives.cross_entropy import CrossEntropy
from chainer_caption.training.objectives.image_batches import ImageMinibatches
from chainer_caption.training.objectives.self_critical import SelfCritical
from chainer_caption.training.objectives.text_first import TextFirst
from chainer_caption.training.settings import Settings, rules
from chainer_caption.training.updater import OBJECTIVES, Objective, Say, find_objective, register_objective

__all__ = ['OBJECTIVES', 'CrossEntropy', 'Objective', 'SelfCritical', 'choose_objective', 'find_objective',
           'register_objective', 'set_up']


def choose_objective(settings: Settings, objective: Objective | str | None) -> tuple[Settings, Objective]:
    """The objective to train with, given as an instance, by its name or by the settings; and settings that agree.
    Raises InputError where it is not registered."""
    if isinstance(objective, str):
        settings, objective = dataclasses.replace(settings, objective=objective), None
    if objective is None:
        return settings, settings.make_objective()
    if OBJECTIVES.get(objective.name) is not type(objective):
        raise InputError(f'{type(objective).__name__} is not registered: decorate it with @register_objective(NAME)')
    own = {name: value for name, value in objective.parameters().items() if name in rules()}
    return dataclasses.replace(settings, objective=objective.name, **own), objective


def set_up(objective: Objective, dataset: Any, bundle: Any, settings: Any, converter: Any, processes: Any,
           notice: Say, text: Text | None = None) -> Objective:
    """Sets an objective up; where the encoder is fine-tuned, it takes minibatches of images, each encoded once; with a
    text, it is preceded by that."""
    if settings.finetune is not None and not objective.by_image:
        objective = ImageMinibatches(objective)
    if text is not None:
        objective = TextFirst(objective, text)
    objective.setup(dataset, bundle, settings, converter, processes, notice)
    return objective
