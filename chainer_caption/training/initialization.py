"""What a training begins with: a vocabulary, and weights that are fresh from the seed or given."""
import dataclasses
import os

from chainer.serializers import NpzDeserializer

from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import get_encoder
from chainer_caption.features.encoders.stages import split
from chainer_caption.models import ARCHITECTURES, bundle
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.provenance import compatible, provenance_text
from chainer_caption.storage.archives import npz_shapes
from chainer_caption.storage.files import read_json
from chainer_caption.storage.serializers import arrays_digest
from chainer_caption.training.encoder import begin_encoder
from chainer_caption.training.settings import weights_path


def known_provenance(dataset, declared):
    """The `encoder` and `preprocessing` that made the features of a dataset, recorded or declared; None if unknown.

    Raises:
        InputError: What is recorded is something else than what is declared.
    """
    if declared is None or dataset.provenance is None or declared == dataset.provenance:
        return dataset.provenance or declared
    raise InputError(f'{dataset.features_path}: recorded as features of {dataset.provenance["encoder"]} under the '
                     f'preprocessing '
                     f'{dataset.provenance["preprocessing"]}, not of {declared["encoder"]} under '
                     f'{declared["preprocessing"]}; '
                     'leave out --encoder and --preprocessing')


def begin(dataset, settings, start_from, provenance, resumed=None, images=None, encoder_weights=None):
    """The untrained bundle.

    Args:
        dataset (Dataset): What to train on.
        settings (Settings): How.
        start_from (str or os.PathLike or None): A model directory or a weights file.
        provenance (dict or None): As declared, for `known_provenance`.
        resumed (pathlib.Path or None): The model directory of a training that goes on, whose vocabulary it has, and
            whose encoder.
        images (str or None): Of a fine-tuning: what tells which images it sees.
        encoder_weights (str or os.PathLike or None): Of a fine-tuning: the weights of the encoder, where they are
            given.

    Returns:
        Bundle: The vocabulary of the training captions, or the one that the training or `start_from` has already; and
        the weights of `start_from`, or fresh ones.

    Raises:
        InputError: `start_from` is damaged, does not fit, or is missing where the objective wants it.
    """
    training = dataclasses.asdict(settings.resolved())
    architecture = ARCHITECTURES[training['architecture']]
    given = Bundle.load(start_from) if start_from is not None and os.path.isdir(start_from) else None
    architecture = type(given.model) if given is not None else architecture
    dataset = dataset.reading(architecture.reads)
    provenance = known_provenance(dataset, provenance)
    training['dataset'] = dataset.digest
    if resumed and (resumed / bundle.VOCABULARY).exists():
        vocabulary = Vocabulary.from_json(read_json(resumed / bundle.VOCABULARY), resumed / bundle.VOCABULARY)
    else:
        vocabulary = Vocabulary.from_counts(*dataset.word_counts(*dataset.training_splits),
                                            min_count=settings.min_count)
    if start_from is None:
        if not resumed and (settings.objective == 'self-critical' or settings.finetune is not None):
            option = f'--finetune {settings.finetune}' if settings.finetune else '--objective self-critical'
            raise InputError(f'{option} goes on from a model that has learned words: name it with -m')
        training.update(chosen_sizes(architecture, settings))
        encoder, provenance, size = _seeing(dataset, settings, training, None, provenance, resumed, images,
                                            encoder_weights)
        return Bundle(fresh_model(architecture, size, vocabulary, training), vocabulary, provenance, training,
                      tokenizer=dataset.captions.tokenizer, encoder=encoder)
    weights, known = weights_path(start_from), {}
    if given is not None:
        vocabulary, known = given.vocabulary, given.model.configuration
        if not architecture.trainable:
            raise InputError(f'{start_from}: is an imported model with a cell of its own ({given.model.cell}), which '
                             'captions but cannot be trained on; train one anew, without -m')
        if settings.architecture not in (None, architecture.architecture):
            raise InputError(f'{start_from}: a model of the architecture {architecture.architecture}; leave out '
                             f'--architecture {settings.architecture} to train it')
        if given.tokenizer != dataset.captions.tokenizer:
            raise InputError(f'{start_from}: speaks in {given.tokenizer}, but {dataset.dataset_path} has captions in '
                             f'{dataset.captions.tokenizer}')
        if settings.finetune is None and not compatible(provenance, given.provenance):
            raise InputError(f'{start_from}: learned from features of {provenance_text(given.provenance)}, the '
                             f'dataset has '
                             f'{provenance_text(provenance)}')
    there = {name: shape for name, (shape, _) in npz_shapes(weights).items()}
    chosen = chosen_sizes(architecture, settings, known)
    hidden = architecture.hidden_of(there) or chosen['hidden']
    if settings.hidden not in (None, hidden):
        raise InputError(f'{weights}: has hidden size {hidden}; leave out --hidden {settings.hidden} to train it')
    encoder, provenance, size = _seeing(dataset, settings, training, given, provenance, resumed, images,
                                        encoder_weights)
    training.update(chosen, hidden=hidden, architecture=architecture.architecture)
    bundle.check_shapes(weights, architecture, **_sizes(architecture, size, vocabulary, training))
    arrays = bundle.read_weights(weights)
    training['start_from'] = arrays_digest(arrays)
    model = fresh_model(architecture, size, vocabulary, training, initialW=0)
    NpzDeserializer(arrays).load(model)
    return Bundle(model, vocabulary, provenance, training, tokenizer=dataset.captions.tokenizer, encoder=encoder)


def _seeing(dataset, settings, training, given, provenance, resumed, images, encoder_weights):
    """What the features come from: the encoder that learns, the features' provenance, and their size."""
    if settings.finetune is None:
        return None, provenance, dataset.feature_size
    reads = ARCHITECTURES[training['architecture']].reads if given is None else given.model.reads
    if reads != 'vectors':
        raise InputError(f'--finetune {settings.finetune}: computes vectors, but the architecture reads {reads}')
    encoder, provenance, began = begin_encoder(settings, given, provenance, encoder_weights, resumed)
    split(encoder, settings.finetune)                   # refuses what is no layer, before anything is written
    training.update(images=images, encoder_weights=began)
    return encoder, provenance, get_encoder(provenance['encoder']).dim


def chosen_sizes(architecture, settings, known=None):
    """The sizes that are a user's to choose, as the settings have them, a model that is `known`, or else the
    architecture: a dict."""
    if settings.max_positions is not None and 'max_positions' not in architecture.chosen:
        raise InputError(f'--max-positions {settings.max_positions}: the architecture {architecture.architecture} has '
                         f'none')
    known = {**architecture.chosen, **(known or {})}
    return {name: getattr(settings, name) or known[name] for name in architecture.chosen}


def _sizes(architecture, feature_size, vocabulary, training):
    sizes = {**training, 'feature_size': feature_size, 'vocabulary_size': len(vocabulary)}
    return {name: sizes[name] for name in architecture.sizes}


def fresh_model(architecture, feature_size, vocabulary, training, **initial):
    """A model whose weights follow from the seed.

    Args:
        architecture (type): One of `models.ARCHITECTURES`.
        feature_size (int): D, the length of the feature vectors that it is to be trained on.
        vocabulary (Vocabulary): Its words.
        training (dict): `Settings` as JSON values, with the sizes in place of None.
        **initial: `initialW`, as for `Architecture`.

    Raises:
        InputError: It does not fit into memory.
    """
    try:
        return architecture(**_sizes(architecture, feature_size, vocabulary, training), dropout=training['dropout'],
                            log_frequencies=vocabulary.log_frequencies(), seed=training['seed'], **initial)
    except MemoryError as e:
        raise InputError(f'--hidden {training["hidden"]}: such a model does not fit into memory ({e})') from e
