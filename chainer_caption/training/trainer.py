"""Puts a `chainer.training.Trainer` together: objective, optimizer, updater, and the extensions."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.data import SPLITS
from chainer_caption.data.batches import CaptionDataset, CaptionIterator, PackCaptions, PackShare
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.cider import SINGLE
from chainer_caption.functions.memory import free_bytes
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.training.extensions import (
    CaptionScores,
    Curves,
    Events,
    KeepBest,
    Log,
    PrintTable,
    ProgressBar,
    RunPage,
    TellDivergence,
    TokenEvaluator,
    check_tensorboard,
    scored_images,
)
from chainer_caption.training.objectives import choose_objective, set_up
from chainer_caption.training.online_features import OnlineFeatures, RefreshFeatures
from chainer_caption.training.optimizer import make_optimizer
from chainer_caption.training.plan import inputs_of
from chainer_caption.training.settings import Settings
from chainer_caption.training.snapshots import Snapshots, TakeSnapshots
from chainer_caption.training.updater import Objective, make_updater

# Share of a GPU's free memory that the features may take to be kept there.
_FEATURES_SHARE = 0.5


def make_trainer(dataset: Any, current: Bundle, output: str | os.PathLike[str], settings: Settings | None = None,
                 device: Any = '@numpy', extensions: Sequence[Any] = (), progress: Any = None,
                 say: Callable[[str], None] = lambda line: None, stop: Callable[[], bool] = lambda: False,
                 processes: Processes | None = None, online_features: OnlineFeatures | None = None,
                 objective: Objective | str | None = None) -> Any:
    """A Chainer trainer that trains a captioner, validates it, keeps the best epoch's weights, logs, takes snapshots.

    `train` runs it in a model directory. By itself it trains a model of your own, and like any trainer of Chainer it
    takes extensions of your own::

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
    snapshot of its output was taken. That holds the state of all extensions, which must be numbers, text or arrays and
    is known by the extension's name. An extension of which the snapshot has nothing starts new; the state of one that
    is gone is dropped.

    Args:
        dataset: Dataset to train on.
        current: Bundle with the model, which is moved to the device, and the vocabulary.
        output: Folder for weights, log, snapshots, curves and the page.
        settings: None for the defaults. Those that make a model or a vocabulary are not used.
        device: Chainer device of this process; on a GPU `run` is called within `chainer.using_device`.
        extensions: Further extensions, which act when their `trigger` fires, after ours of the same `priority`. They
            are added in the process that passes them: one that changes the training is passed in all processes, one
            that prints or writes where `processes.first` only.
        online_features: Fine-tuning: computes the features of its dataset's images.
        progress, say, stop, processes, objective: As for `train`.

    Returns:
        chainer.training.Trainer: Not yet run.

    Raises:
        InputError: The dataset or the model lacks what the settings ask for.
    """
    settings, objective = choose_objective(settings or Settings(), objective)
    processes, device = processes or Processes(), chainer.get_device(device)
    check_possible(dataset, settings)
    if (settings.finetune is None) != (online_features is None):
        raise InputError('finetune and online_features belong together; train() makes both')
    check_model(dataset, current, objective)
    settings, model = settings.resolved(), current.model
    model.to_device(device)
    converter: Any = online_features
    if converter is None:
        converter = make_converter(inputs_of(dataset, model), device, processes, getattr(model, 'per_image', False))
        converter.vocabulary_size = len(current.vocabulary)
    objective = set_up(objective, dataset, current, settings, converter, processes, say)

    target, encoder = (model, None) if online_features is None else (online_features.target, online_features.encoder)
    optimizer = make_optimizer(target, device, processes, settings, encoder)
    updater = make_updater(objective, target, optimizer, device)
    trainer = chainer.training.Trainer(updater, _stop_trigger(settings), out=str(output))
    trainer.reporter.add_observer('main', model)        # which may be a part of the target

    if online_features is not None:
        trainer.extend(RefreshFeatures(online_features, optimizer.averaged))
    _add_extensions(trainer, objective, dataset, current, settings, processes, converter, progress, say, stop)
    for extension in extensions:
        trainer.extend(extension)
    return trainer


def _add_extensions(trainer: Any, objective: Objective, dataset: Any, current: Bundle, settings: Settings,
                    processes: Processes, converter: Any, progress: Any, say: Callable[[str], None],
                    stop: Callable[[], bool]) -> None:
    """Adds validation, scores, the best epoch, log, snapshots, and what is shown to the user."""
    optimizer, device = trainer.updater.get_optimizer('main'), trainer.updater.device
    output, model, weights = trainer.out, current.model, optimizer.averaged
    # What fits into a line of a terminal; the log has everything.
    columns = ['epoch', 'iteration', *objective.columns]
    if SPLITS.index('val') in dataset.captions.splits:
        validation = CaptionIterator(CaptionDataset.from_dataset(dataset, current.vocabulary, 'val'),
                                     settings.batch_size, repeat=False, shuffle=False, per_image=converter.per_image)
        trainer.extend(TokenEvaluator(validation, model, converter=PackCaptions(converter.features,
                                                                                converter.per_image),
                                      device=device, processes=processes, weights=weights))
        columns += ['validation/main/loss']
        if settings.score_every:
            start = objective.requires_model or settings.finetune is not None
            trainer.extend(CaptionScores(current, dataset, device, settings.score_every, processes, weights, start))
            columns += CaptionScores.keys
            if len(scored_images(dataset)) == 1:
                say(f'{dataset.dataset_path}: only one image of the split val has captions; {SINGLE}')
    else:
        say(f'{dataset.dataset_path}: no image is of the split val, so the last epoch is kept and not the best')
    trainer.extend(KeepBest(current, output if processes.first else None, settings.keep_best or 'loss', weights))
    trainer.extend(Log(output, processes, objective.reports, objective.per_token))
    trainer.extend(TakeSnapshots(Snapshots(output, settings.keep_snapshots), settings.snapshot_every, stop, processes))
    if processes.first:
        trainer.extend(PrintTable([*columns, 'elapsed_time'], sys.stdout))
        trainer.extend(TellDivergence(say))
        trainer.extend(Curves())
        trainer.extend(RunPage(current, dataset, settings))
        if settings.tensorboard:
            trainer.extend(Events())
        if progress is not None:
            trainer.extend(ProgressBar(settings.epochs, objective.captions, progress))


def _stop_trigger(settings: Settings) -> Callable[[Any], bool]:
    def stop(trainer: Any) -> bool:
        return (trainer.get_extension('TakeSnapshots').stopped or trainer.updater.epoch >= settings.epochs
                or (settings.patience is not None
                    and trainer.get_extension('KeepBest').epochs_since >= settings.patience))
    return stop


def check_possible(dataset: Any, settings: Settings) -> None:
    """Checks, before anything is written, that a dataset has what the settings ask for.

    Raises:
        InputError: It has not.
    """
    if settings.tensorboard:
        check_tensorboard()
    scored = len(scored_images(dataset))
    # Without images to score, self-critical training keeps the last epoch, as any training does.
    if (settings.keep_best == 'cider' and not scored) or (settings.resolved().keep_best == 'cider' and scored == 1):
        what = f'only one image of the split val has captions, and {SINGLE}' if scored else \
            'no image of the split val has captions, so there is no CIDEr to keep the best by'
        raise InputError(f'{dataset.dataset_path}: {what}; leave out --keep-best cider or use --keep-best loss')


def check_model(dataset: Any, current: Bundle, objective: Objective) -> None:
    """Checks, before anything is written, that a model can be trained on a dataset by an objective.

    Raises:
        InputError: It cannot.
    """
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


def make_converter(features: Any, device: Any, processes: Processes, per_image: bool = False) -> PackCaptions:
    """The converter of minibatches into this process's share of them, on the device.

    Feature vectors move to the device if that is a GPU with room for them, and stay where they are otherwise. Grids
    stay on the host.

    Args:
        features: (N, D) or (N, L, D), float32 or float16, or a tuple of both.
        device: Chainer device.
        processes: Processes that train together.
        per_image: Whether the model is `per_image` (see `Architecture`).
    """
    features = tuple(_placed(each, device) for each in features) if isinstance(features, tuple) else \
        _placed(features, device)
    return PackCaptions(features, per_image) if processes.size == 1 else \
        PackShare(features, processes.rank, processes.size, per_image)


def _placed(features: Any, device: Any) -> Any:
    if device.xp is not cuda.cupy or features.ndim > 2 or features.nbytes > _FEATURES_SHARE * free_bytes(device):
        return features
    with chainer.using_device(device):
        placed = cuda.cupy.empty(features.shape, features.dtype)
        for start in range(0, len(features), 4096):     # a block at a time: a memory map need not fit into memory
            placed[start:start + 4096] = device.send(np.ascontiguousarray(features[start:start + 4096]))
    return placed
