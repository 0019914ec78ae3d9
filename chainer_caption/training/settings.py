"""Settings of a training. Each field carries its rule: bounds, choices, help text, and whether it may change on resume.
The module imports nothing heavy: the options of the command line are generated from it."""
from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from chainer_caption.errors import InputError

if TYPE_CHECKING:
    from chainer_caption.training.updater import Objective


@dataclasses.dataclass(frozen=True)
class Rule:
    """Rule of one setting."""
    help: str                       #: its meaning, for the command line
    kind: type                      #: `int`, `float`, `str`, or `bool` for a flag
    metavar: str | None = None      #: name of its value on the command line; by default its choices
    least: float | None = None      #: inclusive bounds
    most: float | None = None
    above: float | None = None      #: exclusive bounds
    below: float | None = None
    choices: tuple[str, ...] = ()
    registered: bool = False        #: further choices can be registered, so `choices` is not checked
    unset: str | None = None        #: what None stands for, for the command line
    #: The setting and the value without which this one has no effect: `('objective', 'self-critical')`.
    only_for: tuple[str, str | None] | None = None
    may_change: bool = False        #: a resumed training may have another value
    options: tuple[str, ...] = ()   #: option names in addition to the one made from the field's name

    def check(self, name: str, value: Any) -> None:
        """Raises InputError where a value breaks the rule. None is always allowed where it is the default."""
        # A NaN fails all comparisons.
        for failed, message in (
                (self.least is not None and not value >= self.least, f'must be at least {self.least}'),
                (self.most is not None and not value <= self.most, f'must be at most {self.most}'),
                (self.above is not None and not value > self.above, f'must be above {self.above}'),
                (self.kind is float and not value < math.inf, 'must be finite'),
                (self.below is not None and not value < self.below, f'must be below {self.below}'),
                (self.choices and not self.registered and value not in self.choices,
                 f'must be {" or ".join(self.choices)}')):
            if failed:
                raise InputError.of(name, value, message)


def setting(default: Any, help: str, kind: type | None = None, **rule: Any) -> Any:
    """A dataclass field with a `Rule` in its metadata; `kind` is the default's type unless that is None."""
    return dataclasses.field(default=default, metadata={'rule': Rule(help, kind or type(default), **rule)})


_SCST = 'objective', 'self-critical'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """model"""
    architecture: str | None = setting(None, 'architecture of the model', str, unset='that of -m, or show_and_tell',
                                       choices=('show_and_tell', 'merge', 'encoder_decoder'), registered=True)
    hidden: int | None = setting(None, 'width of the LSTM and the embeddings', int, metavar='N', least=1, most=2 ** 20,
                                 unset='that of -m, or 512; 768 for encoder_decoder')
    dropout: float = setting(0.5, 'dropout ratio', metavar='P', least=0, below=1)
    max_positions: int | None = setting(
        None, 'most tokens of a caption, </S> included; only for encoder_decoder', int, metavar='T', least=1, most=4096,
        unset='that of -m, or 50')
    min_count: int | None = setting(
        None, 'the vocabulary has the words that occur at least N times in the training captions', int, metavar='N',
        least=1, unset='5; less for a small dataset in which that leaves out more than 20 %% of the tokens')
    extend_vocabulary: bool = setting(
        False, 'with -m MODEL: add the words of the training captions that its vocabulary lacks; those that occur '
        'twice or more, or --min-count times')


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """optimization"""
    epochs: int = setting(30, 'passes over the training captions', metavar='N', least=0, may_change=True,
                          options=('--iter',))
    batch_size: int = setting(128, 'captions an update, of all processes together', metavar='N', least=1, most=2 ** 31)
    learning_rate: float | None = setting(None, "Adam's learning rate", float, metavar='R', above=0, options=('--lr',),
                                          unset='0.001 for cross-entropy, 2e-4 for self-critical')
    dataset_weights: str | None = setting(
        None, 'several datasets: how often an epoch has the captions of each, as 1,3; the least stands for once', str,
        metavar='W,W', unset='every caption once')
    average: int | None = setting(
        None, 'validate, score and keep the mean of the weights over about K updates', int, metavar='K', least=1,
        most=2 ** 53, unset='the weights of the last update')
    seed: int = setting(0, 'random seed of the initial weights, the order of the captions and the dropout masks',
                        metavar='N', least=0, most=2 ** 32 - 1)
    precision: str = setting(
        'float32', 'precision of the factors of matrix products on the CPU; bf16 is faster on CPUs with AVX512_BF16',
        choices=('float32', 'bf16'))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """objective"""
    objective: str = setting(
        'cross-entropy', 'cross-entropy of the reference captions, or self-critical sequence training (SCST), which '
        'maximizes CIDEr and starts from a trained model (-m)', choices=('cross-entropy', _SCST[1]), registered=True)
    baseline: str = setting(
        'others', "SCST: a sampled caption's reward is compared with the mean of the image's other samples, or with "
        'the greedy caption', choices=('others', 'greedy'), only_for=_SCST)
    samples: int = setting(5, 'SCST: captions sampled for an image', metavar='N', least=1, most=2 ** 16, only_for=_SCST)
    xe_weight: float = setting(1.0, 'SCST: weight of the cross-entropy term', metavar='W', least=0, only_for=_SCST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """text without images"""
    text: str | None = setting(
        None, 'learn from captions without images first: a file with one a line as people wrote them, plain or .gz; '
        'merge learns most from it, as its LSTM reads words alone', str, metavar='FILE', unset='images alone')
    text_epochs: int = setting(1, 'passes over the text, before the first over the images', metavar='N', least=1,
                               only_for=('text', None))
    text_min_count: int | None = setting(
        None, 'words of no training image join the vocabulary if the text has them at least N times', int, metavar='N',
        least=1, only_for=('text', None), unset='none do; those of the training captions count together with the text')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuningSettings:
    """fine-tuning of the image encoder"""
    finetune: str | None = setting(
        None, 'fine-tune the image encoder from this layer on, starting from a trained model (-m); all: every layer',
        str, metavar='LAYER', unset='the encoder is not trained')
    encoder_learning_rate: float | None = setting(
        None, 'learning rate of the image encoder', float, metavar='R', above=0, only_for=('finetune', None),
        options=('--encoder-lr',), unset='a tenth of --learning-rate')
    augment: bool = setting(False, 'crop and mirror the images at random', only_for=('finetune', None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """validation, snapshots and logs"""
    keep_best: str | None = setting(None, 'the figure on val by which the best epoch is kept', str,
                                    choices=('loss', 'cider'), unset='loss for cross-entropy, cider for self-critical')
    patience: int | None = setting(None, 'stop after K epochs without a better figure on val', int, metavar='K',
                                   least=1, may_change=True, unset='never')
    score_every: int = setting(1, 'caption the images of val and score the captions every N epochs; 0: never',
                               metavar='N', least=0)
    tensorboard: bool = setting(False, "write TensorBoard's events to MODEL/events", may_change=True)
    snapshot_every: int | None = setting(
        None, 'updates between two snapshots, in addition to those at the end of each epoch and every ten minutes', int,
        metavar='N', least=1, may_change=True, unset='none in addition')
    keep_snapshots: int = setting(2, 'snapshots to keep', metavar='K', least=1, may_change=True)


GROUPS = ModelSettings, OptimizerSettings, ObjectiveSettings, TextSettings, FineTuningSettings, OutputSettings


# Dataclass fields are collected from the last base to the first.
@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(OutputSettings, FineTuningSettings, TextSettings, ObjectiveSettings, OptimizerSettings, ModelSettings):
    """Settings of a training, by name: `Settings(epochs=5, hidden=32)`. Raises InputError where a value is impossible,
    or belongs to another objective or mode.

    The groups are the bases; the fields, their meaning and their rules are there. None takes the default that depends
    on the model, the objective or the dataset. On the CPU, the same dataset and the same settings give the same model.
    """

    def __post_init__(self) -> None:
        for field_name, rule in rules().items():
            if getattr(self, field_name) is not None:
                rule.check(field_name, getattr(self, field_name))
        from chainer_caption.models import ARCHITECTURES
        name = self.architecture
        if name is not None and name not in ARCHITECTURES:
            raise InputError.of('architecture', name, f'register {name!r} first: --import the module that defines it '
                                f'(known are {", ".join(ARCHITECTURES)})')
        if name is not None and not ARCHITECTURES[name].trainable:
            raise InputError.of('architecture', name, 'cannot be trained')
        objective = self.make_objective()
        taken = objective.parameters()
        if self.text is not None and (self.finetune is not None or objective.requires_model):
            raise InputError.of('text', self.text, 'only for cross-entropy of stored features; train with it first, '
                                'then start from that model (-m)')
        for field in dataclasses.fields(self):
            value, only_for = getattr(self, field.name), rules()[field.name].only_for
            if only_for is None or value == field.default:
                continue
            mode, needed = only_for
            if (field.name not in taken) if needed else getattr(self, mode) is None:
                raise InputError.of(field.name, value, f'only for {mode}{f" {needed}" if needed else ""}')
        if self.extend_vocabulary and objective.requires_model:
            raise InputError.of('extend_vocabulary', True, f'{self.objective} cannot teach new words; train with '
                                'cross-entropy first, then start from that model (-m)')
        _ = self.weights                                # raises where they are no numbers
        if self.keep_best == 'cider' and not self.score_every:
            raise InputError.of('keep_best', 'cider', 'needs scored captions; score_every is 0')

    @property
    def weights(self) -> list[float] | None:
        """The numbers of `dataset_weights`."""
        if self.dataset_weights is None:
            return None
        try:
            found = [float(number) for number in self.dataset_weights.split(',')]
        except ValueError:
            found = []
        if not found or not all(0 < number < math.inf for number in found):
            raise InputError.of('dataset_weights', self.dataset_weights,
                                'must be a number above 0 for each dataset, with commas between them')
        return found

    def make_objective(self) -> Objective:
        """The objective, with its parameters taken from the settings of the same names."""
        from chainer_caption.training.objectives import find_objective
        kind = find_objective(self.objective)
        return kind(**{name: getattr(self, name) for name in kind.parameter_names() if hasattr(self, name)})

    def resolved(self) -> Settings:
        """These settings with the defaults of the objective in place of None."""
        objective = self.make_objective()
        learning_rate = self.learning_rate or objective.learning_rate
        return dataclasses.replace(
            self, architecture=self.architecture or 'show_and_tell', min_count=self.min_count or 5,
            keep_best=self.keep_best or (objective.keep_best if self.score_every else 'loss'),
            learning_rate=learning_rate, encoder_learning_rate=self.encoder_learning_rate or (
                learning_rate / 10 if self.finetune else None))


def rules(group: type = Settings) -> dict[str, Rule]:
    """The rules of the settings, or of a group of them, by name."""
    return {field.name: field.metadata['rule'] for field in dataclasses.fields(group)}
