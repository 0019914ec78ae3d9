"""Plan of a training: where its settings, vocabulary, weights and encoder come from.

`make_plan` makes a plan, which is checked before anything is written. Then its parts are made in order:
`training.vocabulary.make_vocabulary`, `make_model`, `add_encoder`.
"""
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from chainer.serializers import NpzDeserializer

from chainer_caption.captioning.captioner import model_folder
from chainer_caption.data.text import Text
from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import fine_tuned_name, get_encoder
from chainer_caption.features.encoders.stages import split
from chainer_caption.features.extractor import load_encoder
from chainer_caption.features.weights import find_weights
from chainer_caption.models import ARCHITECTURES, bundle, fine_tuned_encoder
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.provenance import compatible, provenance_text
from chainer_caption.storage import journal
from chainer_caption.storage.archives import npz_shapes
from chainer_caption.storage.files import Path, read_json, sample_digest
from chainer_caption.storage.legacy import current_keys
from chainer_caption.storage.serializers import arrays_digest
from chainer_caption.training.settings import Settings, rules
from chainer_caption.training.updater import Objective
from chainer_caption.training.vocabulary import with_new_words

Provenance = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the parts of a training come from."""
    settings: Settings                      #: those of a resumed training have its recorded values in place of None
    objective: Objective
    weights: pathlib.Path | None = None     #: file of the weights to start from; None starts from random ones
    model: Bundle | None = None             #: the loaded model directory that has them, whose vocabulary is kept
    folder: pathlib.Path | None = None      #: the model directory of a resumed training
    before: dict[str, Any] | None = None    #: its recorded settings
    images: str | None = None               #: fine-tuning: what identifies the images that are trained on
    #: Fine-tuning: file of the encoder's weights; None takes those of `model` or the default ones.
    encoder_weights: Path | None = None

    @property
    def architecture(self) -> Any:
        return type(self.model.model) if self.model else ARCHITECTURES[self.settings.architecture or 'show_and_tell']

    def check(self, dataset: Any, provenance: Provenance | None) -> None:
        """Checks that the model to start from fits a dataset whose features have a `known_provenance`."""
        if self.model is None or self.weights is None:
            return
        if self.model.tokenizer != dataset.captions.tokenizer:
            raise InputError(f'{self.weights.parent}: generates {self.model.tokenizer}, but {dataset.dataset_path} has '
                             f'captions in {dataset.captions.tokenizer}')
        if self.settings.finetune is None and not compatible(provenance, self.model.provenance):
            raise InputError(f'{self.weights.parent}: trained on features of {provenance_text(self.model.provenance)}, '
                             f'the dataset has {provenance_text(provenance)}')


def make_plan(folder: pathlib.Path, settings: Settings, objective: Objective, start_from: Path | None, resume: bool,
              images: str | None = None, encoder_weights: Path | None = None) -> Plan:
    """The plan that the arguments of `train` ask for. Raises InputError where what a training is to start from is
    missing, damaged, or contradicts the settings."""
    before = read_settings(folder) if resume else None
    if before is not None:
        plan = resumed(folder, before, settings, objective, start_from)
    elif start_from is not None:
        plan = from_model(settings, objective, start_from)
    else:                                               # random weights
        for field, value in ('finetune', settings.finetune), ('objective', objective.requires_model and objective.name):
            if value:
                raise InputError.of(field, value, 'starts from a trained model: name it with -m (start_from)')
        plan = Plan(settings, objective)
    if settings.extend_vocabulary and plan.model is None and plan.before is None:
        raise InputError('--extend-vocabulary extends that of a model directory: name one to start from (-m)' + (
            f'; {start_from} has weights alone' if start_from else ''))
    if settings.finetune is None:
        return plan
    if plan.before is not None and plan.folder is not None:
        check_these(plan.folder, plan.before, vars(plan.settings), ['finetune'])
    return dataclasses.replace(plan, images=images, encoder_weights=encoder_weights)


def from_model(settings: Settings, objective: Objective, start_from: Path) -> Plan:
    """The weights and the vocabulary of a model directory; or the weights of a file, which fit the vocabulary of the
    training captions."""
    path = model_folder(start_from)
    if not path.is_dir():
        return Plan(settings, objective, path)
    model = Bundle.load(path)
    architecture = type(model.model)
    if not architecture.trainable:
        raise InputError(f'{path}: is an imported model with a cell of its own ({model.model.cell}), which cannot be '
                         'trained; train a new model, without -m')
    if settings.architecture not in (None, architecture.architecture):
        raise InputError(f'{path}: a model of the architecture {architecture.architecture}; leave out the architecture '
                         f'{settings.architecture} to train it')
    return Plan(settings, objective, path / bundle.WEIGHTS, model)


def resumed(folder: pathlib.Path, before: dict[str, Any], settings: Settings, objective: Objective,
            start_from: Path | None) -> Plan:
    """The vocabulary and the encoder of a model directory, with the settings it records where none are given. The
    weights are those of its snapshot, which is loaded later."""
    if settings.architecture in (None, before['architecture']):
        settings = dataclasses.replace(settings, **{
            name: before[name] for name in ('architecture', 'hidden', 'max_positions', 'min_count')
            if getattr(settings, name) is None})
    plan = Plan(settings, objective) if start_from is None else from_model(settings, objective, start_from)
    return dataclasses.replace(plan, folder=folder, before=before)


# ---- The parts, in the order in which they are made

def known_provenance(dataset: Any, declared: Provenance | None) -> Provenance | None:
    """The `encoder` and `preprocessing` of a dataset's features, recorded or declared; None if unknown. Raises
    InputError where the recorded ones differ from the declared ones."""
    recorded = dataset.provenance
    if declared is None or recorded is None or compatible(declared, recorded):
        return recorded or declared
    raise InputError(f'{dataset.features_path}: recorded as features of {recorded["encoder"]} with the preprocessing '
                     f'{recorded["preprocessing"]}, not of {declared["encoder"]} with {declared["preprocessing"]}; '
                     'leave out the encoder and the preprocessing')


def make_model(plan: Plan, dataset: Any, vocabulary: Vocabulary, min_count: int,
               provenance: Provenance | None, text: Text | None = None) -> Bundle:
    """The model with its initial weights, and the record of its training."""
    settings, architecture = plan.settings, plan.architecture
    training = {**dataclasses.asdict(settings.resolved()), **plan.objective.parameters(), 'dataset': dataset.digest,
                'min_count': min_count, 'architecture': architecture.architecture}
    training.update(chosen_sizes(architecture, settings, plan.model.model.configuration if plan.model else None))
    if text is not None:
        if not architecture.reads_words:
            raise InputError.of('text', settings.text, f'the architecture {architecture.architecture} does not read '
                                'words, so it cannot learn from them alone')
        training['text'] = f'{len(text)} captions ({text.digest[:12]})'
    feature_size = dataset.feature_size
    if settings.finetune is not None:
        if architecture.reads != 'vectors':
            raise InputError.of('finetune', settings.finetune,
                                f'computes vectors, but the architecture reads {architecture.reads}')
        feature_size = get_encoder(_encoder_provenance(plan, provenance)['encoder']).dim
    arrays, initial = None, {}
    if plan.weights is not None:
        hidden = architecture.hidden_of({name: shape for name, (shape, _) in npz_shapes(plan.weights).items()})
        hidden = hidden or training['hidden']
        if settings.hidden not in (None, hidden):
            raise InputError(f'{plan.weights}: has hidden size {hidden}; leave out hidden {settings.hidden} to '
                             'train it')
        training['hidden'] = hidden
        old = plan.model.vocabulary if plan.model else vocabulary
        bundle.check_shapes(plan.weights, architecture, **_sizes(architecture, feature_size, old, training))
        arrays, initial = bundle.read_weights(plan.weights), {'initialW': 0}
        training['start_from'] = arrays_digest(arrays)
    model = fresh_model(architecture, feature_size, vocabulary, training, **initial)
    if arrays is not None:
        NpzDeserializer(with_new_words(arrays, model, old, vocabulary)).load(model)
    return Bundle(model, vocabulary, provenance, training, tokenizer=dataset.captions.tokenizer)


def add_encoder(plan: Plan, current: Bundle) -> None:
    """Gives a bundle the image encoder that is fine-tuned, on the CPU, and the provenance of its features. Raises
    InputError where the encoder is unknown, has no such layer, or its weights are missing or others."""
    if plan.settings.finetune is None:
        return
    known, given = _encoder_provenance(plan, current.provenance), plan.encoder_weights
    if plan.folder is not None and plan.before is not None:
        own = fine_tuned_encoder.recover(plan.folder / bundle.WEIGHTS)
        if own is None:
            raise _encoder_missing(plan.folder)
        encoder, *_ = load_encoder(get_encoder(known['encoder']).name, own)
        began = sample_digest(find_weights(get_encoder(known['encoder']), given)) if given else \
            plan.before['encoder_weights']
    else:
        encoder, began, _ = load_encoder(known['encoder'], given or (plan.model.encoder_path if plan.model else None))
        known = {'encoder': fine_tuned_name(known['encoder']), 'preprocessing': known['preprocessing']}
    split(encoder, plan.settings.finetune)              # raises where there is no such layer
    current.encoder, current.provenance = encoder, known
    current.training.update(images=plan.images, encoder_weights=began)


def _encoder_provenance(plan: Plan, provenance: Provenance | None) -> Provenance:
    """The encoder to fine-tune and its preprocessing."""
    if plan.folder is not None:
        recorded = bundle.read_provenance(plan.folder)
        if recorded is None:
            raise _encoder_missing(plan.folder)
        return recorded
    known = (plan.model and plan.model.provenance) or provenance
    if known is None:
        raise InputError.of('finetune', plan.settings.finetune,
                            'the encoder of the features is not recorded; name it with --encoder and --preprocessing')
    return known


def _encoder_missing(folder: pathlib.Path) -> InputError:
    return InputError(f'{folder / fine_tuned_encoder.ENCODER}: missing; put it back, or start again with --overwrite')


def reading_of(model: Any) -> tuple[str, bool]:
    """`reads` and `per_image` of a model, which a chain that is no `Architecture` need not have."""
    return getattr(model, 'reads', 'vectors'), getattr(model, 'per_image', False)


def chosen_sizes(architecture: Any, settings: Settings, known: Mapping[str, Any] | None = None) -> dict[str, int]:
    """The sizes that a user can choose: those of the settings, of a `known` model, or the architecture's defaults."""
    if settings.max_positions is not None and 'max_positions' not in architecture.chosen:
        raise InputError.of('max_positions', settings.max_positions,
                            f'the architecture {architecture.architecture} has none')
    known = {**architecture.chosen, **(known or {})}
    return {name: getattr(settings, name, None) or known[name] for name in architecture.chosen}


def _sizes(architecture: Any, feature_size: int, vocabulary: Vocabulary, training: Mapping[str, Any]) -> dict[str, int]:
    sizes = {**training, 'feature_size': feature_size, 'vocabulary_size': len(vocabulary)}
    return {name: sizes[name] for name in architecture.sizes}


def fresh_model(architecture: Any, feature_size: int, vocabulary: Vocabulary, training: Mapping[str, Any],
                **initial: Any) -> Any:
    """A model whose weights depend on the seed only. `training` has settings as JSON values, with sizes in place of
    None; `initial` may have `Architecture`'s `initialW`."""
    try:
        configuration = {**_sizes(architecture, feature_size, vocabulary, training), 'dropout': training['dropout']}
        initial = {**initial, 'log_frequencies': vocabulary.log_frequencies(), 'seed': training['seed']}
        if hasattr(architecture, 'create'):
            return architecture.create(configuration, **initial)
        return architecture(**configuration, **initial)
    except MemoryError as e:
        raise InputError.of('hidden', training['hidden'], f'such a model does not fit into memory ({e})') from e


# ---- Settings that a model directory records

def read_settings(folder: pathlib.Path) -> dict[str, Any] | None:
    """The settings that a model directory records of its training; None where there is no record yet. Settings of later
    versions have their defaults, which are what earlier versions did. Unknown keys are kept. Raises InputError where
    the record is damaged."""
    if not (folder / bundle.CONFIG).exists():
        return None
    config = current_keys(read_json(folder / bundle.CONFIG))
    before = config.get('training') if isinstance(config, dict) else None
    if not isinstance(before, dict) or not isinstance(before.get('hidden'), int):
        raise InputError(f'{folder / bundle.CONFIG}: does not record how the model was trained, so it cannot be '
                         'resumed')
    return {**dataclasses.asdict(Settings().resolved()), **before}


def check_same(plan: Plan, training: dict[str, Any]) -> None:
    """Checks that a resumed training has the settings that it began with; its record, `training`, gets the digest of
    the weights that it began with."""
    before = plan.before or {}
    # Earlier versions recorded a digest of the file, not of the arrays.
    if 'start_from' in before and (plan.weights is None or before['start_from'] == sample_digest(plan.weights)):
        training['start_from'] = before['start_from']
    # These first: the defaults of others depend on them.
    names = sorted(training, key=lambda name: name not in ('objective', 'architecture'))
    parameters = plan.objective.parameters()
    if plan.folder is not None:
        check_these(plan.folder, before, training, [name for name in names if _must_stay(name, training, parameters)])


def check_these(folder: pathlib.Path, before: Mapping[str, Any], training: Mapping[str, Any], names: list[str]) -> None:
    """Checks that some of the settings are the same."""
    one, other = ({'model to start from (-m)' if name == 'start_from' else name: settings.get(name) for name in names}
                  for settings in (before, training))
    journal.check_same(folder, one, other, 'was trained with',
                       'resume with what it began with, or choose another folder')


def _must_stay(name: str, training: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    rule = rules().get(name)
    if name == 'score_every':                           # what is kept may not depend on it
        return training['keep_best'] != 'loss'
    if rule is None:
        return True
    unused = rule.only_for is not None and rule.only_for[0] == 'objective' and name not in parameters
    return not (rule.may_change or unused)
