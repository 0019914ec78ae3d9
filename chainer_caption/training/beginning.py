"""What a training begins with: a vocabulary, and weights that are fresh from the seed or given."""
import dataclasses
import os

from chainer.serializers import NpzDeserializer

from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.features.networks import described
from chainer_caption.features.networks.stages import split
from chainer_caption.models import ARCHITECTURES, bundle
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.origins import may_be, origin_text
from chainer_caption.storage.archives import npz_shapes
from chainer_caption.storage.files import read_json
from chainer_caption.storage.serializers import arrays_digest
from chainer_caption.training.network import begin_network
from chainer_caption.training.settings import weights_path


def known_origin(release, declared):
    """The `network` and `profile` that made the features of a release, recorded or declared; None if unknown.

    Raises:
        InputError: What is recorded is something else than what is declared.
    """
    if declared is None or release.origin is None or declared == release.origin:
        return release.origin or declared
    raise InputError(f'{release.features_path}: recorded as features of {release.origin["network"]} under the profile '
                     f'{release.origin["profile"]}, not of {declared["network"]} under {declared["profile"]}; '
                     'leave out --network and --profile')


def begin(release, settings, start_from, origin, resumed=None, pictures=None, image_weights=None):
    """The untrained bundle.

    Args:
        release (Release): What to train on.
        settings (Settings): How.
        start_from (str or os.PathLike or None): A model directory or a weights file.
        origin (dict or None): From `known_origin`.
        resumed (pathlib.Path or None): The model directory of a training that goes on, whose vocabulary it has, and
            whose network.
        pictures (str or None): Of a fine-tuning: what tells which pictures it sees.
        image_weights (str or os.PathLike or None): Of a fine-tuning: the weights of the network, where they are given.

    Returns:
        Bundle: The vocabulary of the training captions, or the one that the training or `start_from` has already; and
        the weights of `start_from`, or fresh ones.

    Raises:
        InputError: `start_from` is damaged, does not fit, or is missing where the objective wants it.
    """
    training = dataclasses.asdict(settings.resolved())
    architecture = ARCHITECTURES[training['architecture']]
    training['release'] = release.digest
    if resumed and (resumed / bundle.VOCABULARY).exists():
        vocabulary = Vocabulary.from_json(read_json(resumed / bundle.VOCABULARY), resumed / bundle.VOCABULARY)
    else:
        vocabulary = Vocabulary.from_counts(*release.word_counts(*release.training_splits),
                                            min_count=settings.min_count)
    if start_from is None:
        if not resumed and (settings.objective == 'self-critical' or settings.finetune is not None):
            option = f'--finetune {settings.finetune}' if settings.finetune else '--objective self-critical'
            raise InputError(f'{option} goes on from a model that has learned words: name it with -m')
        training.update(chosen_sizes(architecture, settings))
        network, origin, size = _seeing(release, settings, training, None, origin, resumed, pictures, image_weights)
        return Bundle(fresh_model(architecture, size, vocabulary, training), vocabulary, origin, training,
                      unit=release.captions.unit, network=network)
    weights, given, known = weights_path(start_from), None, {}
    if os.path.isdir(start_from):
        given = Bundle.load(start_from)
        vocabulary, architecture, known = given.vocabulary, type(given.model), given.model.configuration
        if not architecture.trainable:
            raise InputError(f'{start_from}: is an imported model with a cell of its own ({given.model.cell}), which '
                             'captions but cannot be trained on; train one anew, without -m')
        if settings.architecture not in (None, architecture.architecture):
            raise InputError(f'{start_from}: a model of the architecture {architecture.architecture}; leave out '
                             f'--architecture {settings.architecture} to train it')
        if given.unit != release.captions.unit:
            raise InputError(f'{start_from}: speaks in {given.unit}, but {release.dataset_path} has captions in '
                             f'{release.captions.unit}')
        if settings.finetune is None and not may_be(origin, given.origin):
            raise InputError(f'{start_from}: learned from features of {origin_text(given.origin)}, the release has '
                             f'{origin_text(origin)}')
    there = {name: shape for name, (shape, _) in npz_shapes(weights).items()}
    chosen = chosen_sizes(architecture, settings, known)
    hidden = architecture.hidden_of(there) or chosen['hidden']
    if settings.hidden not in (None, hidden):
        raise InputError(f'{weights}: has hidden size {hidden}; leave out --hidden {settings.hidden} to train it')
    network, origin, size = _seeing(release, settings, training, given, origin, resumed, pictures, image_weights)
    training.update(chosen, hidden=hidden, architecture=architecture.architecture)
    bundle.check_shapes(weights, architecture, **_sizes(architecture, size, vocabulary, training))
    arrays = bundle.read_weights(weights)
    training['start_from'] = arrays_digest(arrays)
    model = fresh_model(architecture, size, vocabulary, training, initialW=0)
    NpzDeserializer(arrays).load(model)
    return Bundle(model, vocabulary, origin, training, unit=release.captions.unit, network=network)


def _seeing(release, settings, training, given, origin, resumed, pictures, image_weights):
    """What the features come from: the network that learns, if one does, the origin of the features, and their size."""
    if settings.finetune is None:
        return None, origin, release.feature_size
    network, origin, began = begin_network(settings, given, origin, image_weights, resumed)
    split(network, settings.finetune)                   # refuses what is no layer, before anything is written
    training.update(pictures=pictures, image_weights=began)
    return network, origin, described(origin['network']).dim


def chosen_sizes(architecture, settings, known=None):
    """The sizes that are a user's to choose, as the settings have them, a model that is `known`, or else the
    architecture: a dict."""
    if settings.places is not None and 'places' not in architecture.chosen:
        raise InputError(f'--places {settings.places}: the architecture {architecture.architecture} has none')
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
