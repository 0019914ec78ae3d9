"""Puts a `chainer.training.Trainer` together."""
import sys

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.data import SPLITS
from chainer_caption.data.batches import CaptionDataset, CaptionIterator, PackCaptions, PackShare
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.cider import SINGLE
from chainer_caption.functions.memory import free_bytes
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
from chainer_caption.training.objectives import BY_IMAGE, OBJECTIVES
from chainer_caption.training.online_features import RefreshFeatures
from chainer_caption.training.optimizer import make_optimizer
from chainer_caption.training.settings import Settings
from chainer_caption.training.snapshots import Snapshots, TakeSnapshots

# Of the memory free on a GPU, how much the features may take so as to live there.
_FEATURES_SHARE = 0.5


def check_possible(dataset, settings):
    """Checks that a training can do what its settings ask for, before anything is written.

    Raises:
        InputError: It cannot; the line says why.
    """
    if settings.tensorboard:
        check_tensorboard()
    scored = len(scored_images(dataset))
    # Without images to score, self-critical training keeps the last epoch, as any training does.
    if (settings.keep_best == 'cider' and not scored) or (settings.resolved().keep_best == 'cider' and scored == 1):
        what = f'only one image of the split val has captions, and {SINGLE}' if scored else \
            'no image of the split val has captions, so there is no CIDEr to keep the best by'
        raise InputError(f'{dataset.dataset_path}: {what}; leave out --keep-best cider or say --keep-best loss')


def check_model(dataset, current, settings):
    """Checks that a model can learn from a dataset what its settings ask for, before anything is written.

    Raises:
        InputError: It cannot; the line says why.
    """
    model = current.model
    if settings.objective == 'self-critical' and not hasattr(model, 'sampled_loss'):
        raise InputError(f'--objective self-critical: a {type(model).__name__} draws no captions; train it with the '
                         'objective words')
    places = getattr(model, 'max_positions', None)
    if places is not None:
        lengths = CaptionDataset.from_dataset(dataset, current.vocabulary, *dataset.training_splits, 'val').lengths
        if lengths.max() > places:
            raise InputError(f'{dataset.dataset_path}: {np.count_nonzero(lengths > places):,} captions have more words '
                             f'than the {places - 1} that {places} places have room for beside </S>; '
                             f'--max-positions {lengths.max()} has room for all')


def make_trainer(dataset, current, output, settings=None, device='@numpy', extensions=(), progress=None,
                 say=lambda line: None, stop=lambda: False, processes=None, online_features=None):
    """A Chainer trainer that trains a captioner, validates it, keeps the best epoch's weights, logs, takes snapshots.

    `train` runs it within a model directory. By itself it trains a model of one's own, and like any trainer of Chainer
    it takes extensions of one's own::

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

    The model is a `chainer.Chain` that is called as `ShowAndTell` is, gives the loss as a variable and reports `loss`
    and `accuracy`. Only what a `Captioner` can caption with is scored; any other takes `score_every=0`. What it draws
    from a generator of its own, and not from `update_key`, differs when a training is resumed.

    `trainer.get_extension('TakeSnapshots').snapshots.load_latest(trainer)` brings a new trainer to where the latest
    snapshot of its output was taken. That holds the state of all extensions, which must be numbers, text or arrays and
    is known by the extension's name. So other extensions may be there than before: one of which the snapshot has
    nothing begins afresh, and the state of one that is gone is dropped.

    Args:
        dataset (Dataset): What to train on.
        current (Bundle): What to train: the model, which is moved to the device, and the vocabulary.
        output (str or os.PathLike): The folder for weights, log, snapshots, curves and the page.
        settings (Settings): How; None for the defaults. What makes a model or a vocabulary is not looked at.
        device (str or chainer.backend.Device): Where this process trains; on a GPU `run` is called within
            `chainer.using_device`.
        extensions (sequence of chainer.training.Extension): Further ones, which act when their `trigger` says, after
            ours of the same `priority`. They are added in the process that gives them: one that changes the training
            is given in all processes, one that prints or writes where `processes.first` alone.
        progress (file or None): A terminal to draw a progress bar on.
        say (callable): Takes notices for the user, a line each.
        stop (callable): Asked after each update whether to stop there, with a snapshot.
        processes (Processes or None): Who trains together; None for this process alone.
        online_features (OnlineFeatures or None): What sees the images of its dataset, which is the one to train on,
            where `settings` have the image encoder learn, too; None for the dataset's features.

    Returns:
        chainer.training.Trainer: Not yet run.

    Raises:
        InputError: The dataset or the model has not what the settings ask for.
    """
    settings, processes, device = settings or Settings(), processes or Processes(), chainer.get_device(device)
    check_possible(dataset, settings)
    if (settings.finetune is None) != (online_features is None):
        raise InputError('finetune and online_features belong together; train() makes both')
    check_model(dataset, current, settings)
    settings = settings.resolved()
    model, vocabulary = current.model, current.vocabulary
    model.to_device(device)
    per_image = getattr(model, 'per_image', False)
    reads, words = getattr(model, 'reads', 'vectors'), len(vocabulary)
    converter = make_converter(dataset.inputs(reads), device, processes, per_image, words) \
        if online_features is None else online_features
    kinds, target, encoder = (OBJECTIVES, model, None) if online_features is None else (BY_IMAGE,
                                                                                        online_features.target,
                                                                                        online_features.encoder)
    objective = kinds[settings.objective](dataset, current, settings, converter, processes, say)
    optimizer = make_optimizer(target, device, processes, settings, encoder)
    updater = chainer.training.updaters.StandardUpdater(
        objective.iterator, optimizer, converter=objective.converter, device=device,
        loss_func=lambda *batch: objective.loss(updater.iteration, *batch))
    keep_best = KeepBest(current, output if processes.first else None, settings.keep_best, optimizer.averaged)
    taking = TakeSnapshots(Snapshots(output, settings.keep_snapshots), settings.snapshot_every, stop, processes)
    trainer = chainer.training.Trainer(updater, _stop_trigger(settings, keep_best, taking), out=str(output))
    trainer.reporter.add_observer('main', model)        # who may be a part of what is trained
    if online_features is not None:
        trainer.extend(RefreshFeatures(online_features, optimizer.averaged))
    # What fits into a line of a terminal; the log has everything.
    columns = ['epoch', 'iteration', *objective.columns]
    if SPLITS.index('val') in dataset.captions.splits:
        validation = CaptionIterator(CaptionDataset.from_dataset(dataset, vocabulary, 'val'), settings.batch_size,
                                     repeat=False, shuffle=False, per_image=per_image)
        trainer.extend(TokenEvaluator(validation, model, converter=PackCaptions(converter.features, per_image, words),
                                      device=device, processes=processes, weights=optimizer.averaged))
        columns += ['validation/main/loss']
        if settings.score_every:
            trainer.extend(CaptionScores(current, dataset, device, settings.score_every, processes,
                                         optimizer.averaged, start=objective.goes_on))
            columns += CaptionScores.keys
            if len(scored_images(dataset)) == 1:
                say(f'{dataset.dataset_path}: only one image of the split val has captions; {SINGLE}')
    else:
        say(f'{dataset.dataset_path}: no image is of the split val, so the last epoch is kept and not the best')
    for extension in (keep_best, Log(output, processes, objective.reports, objective.per_token), taking):
        trainer.extend(extension)
    if processes.first:
        shown = [PrintTable([*columns, 'elapsed_time'], sys.stdout), TellDivergence(say), Curves(),
                 RunPage(current, dataset, settings)]
        shown += [Events()] if settings.tensorboard else []
        shown += [ProgressBar(settings.epochs, objective.captions, progress)] if progress is not None else []
        for extension in shown:
            trainer.extend(extension)
    for extension in extensions:
        trainer.extend(extension)
    return trainer


def make_converter(features, device, processes, per_image=False, vocabulary_size=None):
    """The converter of minibatches into this process's share of them, on the device, for models that are `per_image`
    or not.

    Feature vectors move to the device if that is a GPU with room for them, and stay where they are otherwise. Grids
    stay memory-mapped on the host.
    """
    features = _placed(features, device)
    return PackCaptions(features, per_image, vocabulary_size) if processes.size == 1 else \
        PackShare(features, processes.rank, processes.size, per_image, vocabulary_size)


def _placed(features, device):
    if isinstance(features, tuple):
        return tuple(_placed(array, device) for array in features)
    if device.xp is not cuda.cupy or features.ndim > 2:
        return features
    if features.nbytes > _FEATURES_SHARE * free_bytes(device):
        return features
    with chainer.using_device(device):
        placed = cuda.cupy.empty(features.shape, features.dtype)
        for start in range(0, len(features), 4096):     # a block at a time: a memory map need not fit into memory
            placed[start:start + 4096] = device.send(np.ascontiguousarray(features[start:start + 4096]))
    return placed


def _stop_trigger(settings, keep_best, taking):
    def stop(trainer):
        return (taking.stopped or trainer.updater.epoch >= settings.epochs
                or (settings.patience is not None and keep_best.epochs_since >= settings.patience))
    return stop
