"""Training: a `chainer.training.Trainer` put together from a release and some settings."""
import dataclasses
import pathlib
import sys

import chainer
import numpy as np
from chainer.backends import cuda
from chainer.serializers import NpzDeserializer
from chainer.training import extensions

from chainer_caption import bundle
from chainer_caption.batches import MAX_WORDS, CaptionDataset, LengthBucketIterator, PackCaptions
from chainer_caption.bundle import Bundle
from chainer_caption.errors import InputError
from chainer_caption.extensions import WATCHED, CaptionScores, Curves, Events, Log, RunPage, Table, TokenEvaluator
from chainer_caption.extensions.best import FIGURES, KeepBest
from chainer_caption.files import npz_shapes, read_json, write_json
from chainer_caption.functions import Adam
from chainer_caption.models import ShowAndTell
from chainer_caption.release import SPLITS, TRAINING_SPLITS
from chainer_caption.release.cache import sample_digest
from chainer_caption.vocabulary import Vocabulary

# Of the memory free on a GPU, how much the features may take so as to live there.
_FEATURES_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a training is made of. Given the same release, the same settings give the same model on the CPU.

    Attributes:
        epochs (int): Passes over the training captions.
        batch_size (int): Captions an update.
        hidden (int or None): Width of the embeddings and of the LSTM; None takes that of the weights to start from,
            or 512.
        dropout (float): See ShowAndTell.
        min_count (int): How often a word must stand in the training captions to be in the vocabulary.
        seed (int): Of the initial weights, the order of the captions and the dropout masks.
        patience (int or None): Epochs without a better figure after which to stop, of those in which it was measured;
            None never does.
        keep_best (str): The figure on `val` by which an epoch is kept: `'loss'` or `'cider'`.
        score_every (int): Every so many epochs the captions of `val` are scored (see CaptionScores); 0 never does.
    """
    epochs: int = 30
    batch_size: int = 128
    hidden: int | None = None
    dropout: float = 0.5
    min_count: int = 5
    seed: int = 0
    patience: int | None = None
    keep_best: str = 'loss'
    score_every: int = 1

    def __post_init__(self):
        least = {'epochs': 0, 'batch_size': 1, 'hidden': 1, 'min_count': 1, 'seed': 0, 'patience': 1,
                 'score_every': 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise InputError(f'--{name.replace("_", "-")} {value}: must be at least {bound}')
        if not 0 <= self.dropout < 1:
            raise InputError(f'--dropout {self.dropout}: must be from 0 to below 1')
        if self.keep_best not in FIGURES:
            raise InputError(f'--keep-best {self.keep_best}: must be {" or ".join(FIGURES)}')
        if self.keep_best == 'cider' and not self.score_every:
            raise InputError('--keep-best cider needs captions that are scored: leave out --score-every 0')


# These may change when training is resumed.
_MAY_CHANGE = ('epochs', 'patience')


def train(release, output, settings=None, device='@numpy', resume=False, overwrite=False, start_from=None, origin=None,
          progress=None, say=lambda line: None, tensorboard=False):
    """Trains a captioner and writes its model directory, in which the best epoch's weights are kept.

    Args:
        release (Release): What to train on: its splits `train` and `restval`; `val` chooses the best epoch.
        output (str or os.PathLike): The model directory.
        settings (Settings): None for the defaults.
        device (str or chainer.backend.Device): Where to train.
        resume (bool): Go on with the training of the model directory, if there is one.
        overwrite (bool): Replace a model that is there already.
        start_from (str or os.PathLike or None): A model directory, whose vocabulary is kept, or a `weights.npz` in the
            layout of Chainer's `save_npz` that fits the release's vocabulary.
        origin (dict or None): The `network` and `profile` that made the features, where the release does not record
            them.
        progress (file or None): A terminal to draw a progress bar on.
        say (callable): Takes notices for the user, a line each.
        tensorboard (bool): Write TensorBoard's events, too, into the model directory's `events`.

    Returns:
        Bundle: The model of the best epoch.

    Raises:
        InputError: Something about the release, the settings or the folder is wrong; the line says what.
    """
    settings = settings or Settings()
    output = pathlib.Path(output)
    device = chainer.get_device(device)
    events = [Events()] if tensorboard else []
    if settings.keep_best == 'cider' and SPLITS.index('val') not in release.captions.splits:
        raise InputError(f'{release.dataset_path}: no image is of the split val, so there is no CIDEr to keep the best '
                         'by; leave out --keep-best cider')
    bundle.check_new(output, resume, overwrite)
    before = _settings_before(output) if resume and (output / bundle.CONFIG).exists() else None
    if before is not None and settings.hidden is None:
        settings = dataclasses.replace(settings, hidden=before['hidden'])
    current = _start(release, settings, start_from, _known_origin(release, origin), before and output)
    if before is not None:
        _check_same_settings(output, before, current.training, start_from)
    elif overwrite:
        # Not before everything that was asked for has been found possible; it may even start from what is replaced.
        for name in (bundle.CONFIG, bundle.WEIGHTS, bundle.SNAPSHOT, bundle.LOG, bundle.VOCABULARY, *WATCHED):
            for path in output.glob(name):
                path.unlink()
    resume = before is not None and (output / bundle.SNAPSHOT).exists()
    if before is not None and not resume and (output / bundle.WEIGHTS).exists():
        current.model = Bundle.load(output).model
        say(f'{output}: no snapshot in it; training begins with its weights')
    trainer = _make_trainer(release, current, settings, device, output, progress, say, events)
    if resume:
        bundle.load_snapshot(output / bundle.SNAPSHOT, trainer)
    current.save_config(output)
    write_json(output / bundle.VOCABULARY, current.vocabulary.to_json(), indent=None)
    with chainer.using_device(device):
        trainer.run(show_loop_exception_msg=False)
    if not (output / bundle.WEIGHTS).exists():
        current.save_weights(output)                    # no epoch was asked for
    return Bundle.load(output)


def _known_origin(release, declared):
    if declared is None or release.origin is None or declared == release.origin:
        return release.origin or declared
    raise InputError(f'{release.features_path}: recorded as features of {release.origin["network"]} under the profile '
                     f'{release.origin["profile"]}, not of {declared["network"]} under {declared["profile"]}; '
                     'leave out --network and --profile')


def _start(release, settings, start_from, origin, resumed=None):
    """The untrained bundle: the vocabulary of the training captions or, when a training is resumed, its own; and
    weights fresh from the seed or given."""
    training = dataclasses.asdict(settings)
    training['release'] = release.digest
    if resumed and (resumed / bundle.VOCABULARY).exists():
        vocabulary = Vocabulary.from_json(read_json(resumed / bundle.VOCABULARY), resumed / bundle.VOCABULARY)
    else:
        vocabulary = Vocabulary.from_counts(*release.word_counts(*training_splits(release)),
                                            min_count=settings.min_count)
    if start_from is None:
        training['hidden'] = settings.hidden or 512
        return Bundle(_fresh_model(release, vocabulary, training), vocabulary, origin, training)
    start_from = pathlib.Path(start_from)
    weights = start_from / bundle.WEIGHTS if start_from.is_dir() else start_from
    if start_from.is_dir():
        given = Bundle.load(start_from)
        vocabulary = given.vocabulary
        if origin and given.origin and origin != given.origin:
            raise InputError(f'{start_from}: learned from features of {given.origin["network"]}/'
                             f'{given.origin["profile"]}, the release has {origin["network"]}/{origin["profile"]}')
    shapes = npz_shapes(weights)
    hidden = shapes.get('image_vec/W', ((settings.hidden or 512,),))[0][0]
    if settings.hidden not in (None, hidden):
        raise InputError(f'{weights}: has hidden size {hidden}; leave out --hidden {settings.hidden} to train it')
    bundle.check_shapes(weights, release.feature_size, len(vocabulary), hidden)
    training.update(hidden=hidden, start_from=sample_digest(weights))
    arrays = bundle.read_weights(weights)
    model = _fresh_model(release, vocabulary, training)
    NpzDeserializer(arrays).load(model)
    return Bundle(model, vocabulary, origin, training)


def training_splits(release):
    return [split for split in TRAINING_SPLITS if SPLITS.index(split) in release.captions.splits] or TRAINING_SPLITS


def _fresh_model(release, vocabulary, training):
    return ShowAndTell(release.feature_size, len(vocabulary), training['hidden'], training['dropout'],
                       vocabulary.log_frequencies(), training['seed'])


def _settings_before(output):
    config = read_json(output / bundle.CONFIG)
    before = config.get('training') if isinstance(config, dict) else None
    if not isinstance(before, dict) or not isinstance(before.get('hidden'), int):
        raise InputError(f'{output / bundle.CONFIG}: does not say how the model was trained, so it cannot be resumed')
    return {'keep_best': 'loss', **before}              # it was, before there was a choice


def _check_same_settings(output, before, training, start_from):
    if start_from is None and 'start_from' in before:
        training['start_from'] = before['start_from']   # what it began with is in its snapshot now
    for name, value in training.items():
        if name in _MAY_CHANGE or before.get(name) == value:
            continue
        if name == 'score_every' and training['keep_best'] == 'loss':
            continue                                    # what is kept does not depend on it then
        if name == 'release':
            what = 'was trained on another release'
        elif name == 'start_from':
            what = f'did not start from {start_from}'
        else:
            what = f'was trained with --{name.replace("_", "-")} {before.get(name)}, not {value}'
        raise InputError(f'{output}: {what}; resume with what it began with, or choose another folder')


def _make_trainer(release, current, settings, device, output, progress, say, shown):
    model, vocabulary = current.model, current.vocabulary
    model.to_device(device)
    data = CaptionDataset.from_release(release, vocabulary, *training_splits(release))
    if data.overlong:
        say(f'{data.overlong} captions are longer than {MAX_WORDS} words and are trained on without what is over')
    converter = PackCaptions(place_features(release.features, device))
    optimizer = Adam()
    optimizer.setup(model)
    iterator = LengthBucketIterator(data, settings.batch_size, seed=settings.seed)
    updater = chainer.training.updaters.StandardUpdater(
        iterator, optimizer, converter=converter, device=device,
        loss_func=lambda *batch: model(*batch, update_key=(settings.seed, updater.iteration)))
    keep_best = KeepBest(current, output, settings.keep_best)
    trainer = chainer.training.Trainer(updater, _stop_trigger(settings, keep_best), out=str(output))
    columns = ['epoch', 'iteration', 'main/loss', 'main/perplexity', 'main/accuracy']
    if SPLITS.index('val') in release.captions.splits:
        validation = LengthBucketIterator(CaptionDataset.from_release(release, vocabulary, 'val'), settings.batch_size,
                                          repeat=False, shuffle=False)
        trainer.extend(TokenEvaluator(validation, model, converter=converter, device=device))
        columns += ['validation/main/loss', 'validation/main/perplexity', 'validation/main/accuracy']
        if settings.score_every:
            trainer.extend(CaptionScores(current, release, device, settings.score_every))
            columns += CaptionScores.keys
    else:
        say(f'{release.dataset_path}: no image is of the split val, so the last epoch is kept and not the best')
    trainer.extend(keep_best)
    trainer.extend(Log(bundle.LOG))
    trainer.extend(extensions.PrintReport([*columns, 'elapsed_time'], out=Table(sys.stdout)))
    for extension in (Curves(), RunPage(current, release, settings), *shown):
        trainer.extend(extension)
    trainer.extend(extensions.snapshot(filename=bundle.SNAPSHOT, writer=bundle.save_snapshot))
    if progress is not None:
        length = settings.epochs, 'epoch'
        trainer.extend(extensions.ProgressBar(training_length=length, update_interval=10, out=progress))
    return trainer


def place_features(features, device):
    """The feature matrix on the device if it is a GPU with room for it, and where it is otherwise."""
    if device.xp is not cuda.cupy:
        return features
    with chainer.using_device(device):
        if features.nbytes > _FEATURES_SHARE * cuda.cupy.cuda.runtime.memGetInfo()[0]:
            return features
        placed = cuda.cupy.empty(features.shape, features.dtype)
        for start in range(0, len(features), 4096):     # a block at a time: a memory map need not fit into memory
            placed[start:start + 4096] = device.send(np.ascontiguousarray(features[start:start + 4096]))
    return placed


def _stop_trigger(settings, keep_best):
    def stop(trainer):
        return (trainer.updater.epoch >= settings.epochs
                or (settings.patience is not None and keep_best.epochs_since >= settings.patience))
    return stop
