"""Puts a `chainer.training.Trainer` together: objective, optimizer, updater, and the extensions."""
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.data import SPLITS
from chainer_caption.data.batches import CaptionDataset, CaptionIterator, PackCaptions, PackShare
from chainer_caption.data.text import Text
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.cider import SINGLE
from chainer_caption.functions import Adam
from chainer_caption.functions.memory import free_bytes
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import Path
from chainer_caption.training import extensions as ours
from chainer_caption.training.objectives import choose_objective, set_up
from chainer_caption.training.online_features import OnlineFeatures, RefreshFeatures
from chainer_caption.training.plan import reading_of
from chainer_caption.training.settings import Settings
from chainer_caption.training.snapshots import Snapshots, TakeSnapshots
from chainer_caption.training.updater import Objective, Say, make_updater

_FEATURES_SHARE = 0.5       # of a GPU's free memory, which the features may take to be kept there


def make_trainer(dataset: Any, current: Bundle, output: Path, settings: Settings | None = None, device: Any = '@numpy',
                 extensions: Sequence[Any] = (), progress: Any = None, say: Say = lambda line: None,
                 stop: Callable[[], bool] = lambda: False, processes: Processes | None = None,
                 online_features: OnlineFeatures | None = None, objective: Objective | str | None = None,
                 text: Text | None = None) -> Any:
    """A Chainer trainer that trains a captioner, validates it, keeps the best epoch's weights, logs, takes snapshots.

    `train` runs it in a model directory. By itself it trains a model of your own, with extensions of your own::

        class WeightNorm(chainer.training.Extension):
            trigger = 1, 'epoch'
            priority = chainer.training.PRIORITY_WRITER             # reports before the log is written

            def __call__(self, trainer):
                model = trainer.updater.get_optimizer('main').target
                chainer.report({'norm': sum(float((p.array ** 2).sum()) for p in model.params()) ** 0.5})

        dataset = Dataset('features/flickr8k')
        vocabulary = Vocabulary.from_counts(*dataset.word_counts(*dataset.training_splits))
        model = MyCaptioner(dataset.feature_size, len(vocabulary))
        trainer = make_trainer(dataset, Bundle(model, vocabulary), 'out', Settings(epochs=5, score_every=0),
                               extensions=[WeightNorm()])
        trainer.run()                                               # out/log.json has the norm of each epoch

    The model is a `chainer.Chain` that is called as `ShowAndTell` is, returns the loss as a variable and reports `loss`
    and perhaps `accuracy`. Only a model that a `Captioner` can use is scored; others need `score_every=0`. Random
    numbers that it takes from its own generator, and not from `update_key`, differ after a training is resumed.

    `trainer.get_extension('TakeSnapshots').snapshots.load_latest(trainer)` brings a new trainer to where the latest
    snapshot of its output was taken. That holds the state of all extensions by their names: numbers, text or arrays. An
    extension of which the snapshot has nothing starts new; the state of one that is gone is dropped.

    Args:
        current: Bundle with the model, which is moved to the device, and the vocabulary.
        output: Folder for weights, log, snapshots, curves and the page.
        settings: None for the defaults. Those that make a model or a vocabulary are not used.
        device: Chainer device of this process; on a GPU `run` is called within `chainer.using_device`.
        extensions: Further extensions, which act when their `trigger` fires, after ours of the same `priority`. One
            that changes the training is passed in all processes, one that prints or writes where `processes.first`.
        online_features: Fine-tuning: computes the features of its dataset's images.
        text: The captions without images of `settings.text` (`read_text`).
        dataset, progress, say, stop, processes, objective: As for `train`.

    Raises InputError where the dataset or the model lacks what the settings ask for.
    """
    settings, objective = choose_objective(settings or Settings(), objective)
    processes, device = processes or Processes(), chainer.get_device(device)
    check_possible(dataset, settings)
    if (settings.finetune is None) != (online_features is None):
        raise InputError('finetune and online_features belong together; train() makes both')
    if (settings.text is None) != (text is None):
        raise InputError('the setting text and the argument text belong together; train() reads it')
    check_model(dataset, current, objective)
    settings, model = settings.resolved(), current.model
    model.to_device(device)
    converter: Any = online_features
    if converter is None:
        reads, per_image = reading_of(model)
        converter = make_converter(dataset.inputs(reads), device, processes, per_image)
        converter.vocabulary_size = len(current.vocabulary)
    objective = set_up(objective, dataset, current, settings, converter, processes, say, text)

    target, encoder = (model, None) if online_features is None else (online_features.target, online_features.encoder)
    optimizer = make_optimizer(target, device, processes, settings, encoder)
    updater = make_updater(objective, target, optimizer, device)
    trainer = chainer.training.Trainer(updater, functools.partial(_has_ended, settings), out=str(output))
    trainer.reporter.add_observer('main', model)        # which may be a part of the target

    if online_features is not None:
        trainer.extend(RefreshFeatures(online_features, optimizer.averaged))
    own = _own_extensions(trainer, objective, dataset, current, settings, processes, converter, progress, say, stop)
    for extension in (*own, *extensions):
        trainer.extend(extension)
    return trainer


def _own_extensions(trainer: Any, objective: Objective, dataset: Any, current: Bundle, settings: Settings,
                    processes: Processes, converter: Any, progress: Any, say: Say,
                    stop: Callable[[], bool]) -> Iterator[Any]:
    """Validation, scores, the best epoch, log, snapshots, and what is shown to the user."""
    optimizer, device = trainer.updater.get_optimizer('main'), trainer.updater.device
    output, model, weights = trainer.out, current.model, optimizer.averaged
    columns = ['epoch', 'iteration', *objective.columns]    # what fits into a line of a terminal
    if SPLITS.index('val') in dataset.captions.splits:
        validation = CaptionIterator(CaptionDataset.from_dataset(dataset, current.vocabulary, 'val'),
                                     settings.batch_size, repeat=False, shuffle=False, per_image=converter.per_image)
        packing = PackCaptions(converter.features, converter.per_image, len(current.vocabulary))
        yield ours.TokenEvaluator(validation, model, converter=packing, device=device, processes=processes,
                                  weights=weights)
        columns += ['validation/main/loss']
        if settings.score_every:
            start = objective.requires_model or settings.finetune is not None
            yield ours.CaptionScores(current, dataset, device, settings.score_every, processes, weights, start)
            columns += ours.CaptionScores.keys
            if len(ours.scored_images(dataset)) == 1:
                say(f'{dataset.dataset_path}: only one image of the split val has captions; {SINGLE}')
    else:
        say(f'{dataset.dataset_path}: no image is of the split val, so the last epoch is kept and not the best')
    yield ours.KeepBest(current, output if processes.first else None, settings.keep_best or 'loss', weights)
    yield ours.Log(output, processes, objective.reports, objective.per_token)
    yield TakeSnapshots(Snapshots(output, settings.keep_snapshots), settings.snapshot_every, stop, processes)
    if processes.first:
        yield ours.PrintTable([*columns, 'elapsed_time'], sys.stdout)
        yield from (ours.TellDivergence(say), ours.Curves(), ours.RunPage(current, dataset, settings))
        if settings.tensorboard:
            yield ours.Events()
        if progress is not None:
            yield ours.ProgressBar(settings.epochs, objective.captions, progress)


def _has_ended(settings: Settings, trainer: Any) -> bool:
    patience = math.inf if settings.patience is None else settings.patience
    in_text = getattr(trainer.updater.get_iterator('main'), 'in_text', False)
    return (trainer.get_extension('TakeSnapshots').stopped or (trainer.updater.epoch >= settings.epochs and not in_text)
            or trainer.get_extension('KeepBest').epochs_since >= patience)


def check_possible(dataset: Any, settings: Settings) -> None:
    """Checks, before anything is written, that a dataset has what the settings ask for; raises InputError otherwise."""
    if settings.tensorboard:
        ours.check_tensorboard()
    parts = len(getattr(dataset, 'parts', [dataset]))
    if settings.weights is not None and len(settings.weights) != parts:
        raise InputError.of('dataset_weights', settings.dataset_weights,
                            f'needs a number for each dataset, of which there {"is" if parts == 1 else "are"} {parts}')
    scored = len(ours.scored_images(dataset))
    # Without images to score, self-critical training keeps the last epoch, as any training does.
    if (settings.keep_best == 'cider' and not scored) or (settings.resolved().keep_best == 'cider' and scored == 1):
        what = f'only one image of the split val has captions, and {SINGLE}' if scored else \
            'no image of the split val has captions, so there is no CIDEr to keep the best by'
        raise InputError(f'{dataset.dataset_path}: {what}; leave out --keep-best cider or use --keep-best loss')


def check_model(dataset: Any, current: Bundle, objective: Objective) -> None:
    """Checks, before anything is written, that a model can be trained on a dataset; raises InputError otherwise."""
    model, vocabulary = current.model, current.vocabulary
    words = getattr(model, 'vocabulary_size', None)
    if words not in (None, len(vocabulary)):
        raise InputError(f'the model has {words:,} words, but the vocabulary has {len(vocabulary):,}; make the model '
                         f'with vocabulary_size={len(vocabulary)}')
    objective.check(dataset, current)
    positions = getattr(model, 'max_positions', None)
    if positions is not None:
        lengths = CaptionDataset.from_dataset(dataset, vocabulary, *dataset.training_splits, 'val').lengths
        if lengths.max() > positions:
            raise InputError(f'{dataset.dataset_path}: {np.count_nonzero(lengths > positions):,} captions have more '
                             f'words than the {positions - 1} for which {positions} positions have room beside </S>; '
                             f'--max-positions {lengths.max()} has room for all')


def make_optimizer(model: Any, device: Any, processes: Processes, settings: Settings | None = None,
                   encoder: Any = None) -> Adam:
    """Adam, set up on a Chainer link on its device; with several processes it takes the mean of their gradients.
    `encoder` is the part of the model that has the image encoder's learning rate."""
    settings = (settings or Settings()).resolved()
    optimizer = Adam(settings.learning_rate, average=settings.average)
    optimizer.setup(model)
    if encoder is not None and settings.encoder_learning_rate and settings.learning_rate:
        for param in encoder.params():                  # a factor of Adam's own rate
            param.update_rule.hyperparam.eta = settings.encoder_learning_rate / settings.learning_rate
    if processes.size > 1:
        optimizer.add_hook(processes.mean_gradients(device))
    return optimizer


def make_converter(features: Any, device: Any, processes: Processes, per_image: bool = False) -> PackCaptions:
    """The converter of minibatches into this process's share of them, on the device.

    Features are (N, D) or (N, L, D), float32 or float16, or a tuple of both. Vectors move to the device if that is a
    GPU with room for them, and stay where they are otherwise; grids stay on the host. `per_image`: as the model's.
    """
    features = _placed(features, device)
    return PackCaptions(features, per_image) if processes.size == 1 else \
        PackShare(features, processes.rank, processes.size, per_image)


def _placed(features: Any, device: Any) -> Any:
    if isinstance(features, tuple):
        return tuple(_placed(each, device) for each in features)
    if device.xp is not cuda.cupy or features.ndim > 2 or features.nbytes > _FEATURES_SHARE * free_bytes(device):
        return features
    with chainer.using_device(device):
        placed = cuda.cupy.empty(features.shape, features.dtype)
        for start in range(0, len(features), 4096):     # a block at a time: a memory map need not fit into memory
            placed[start:start + 4096] = device.send(np.ascontiguousarray(features[start:start + 4096]))
    return placed
