"""Puts a `chainer.training.Trainer` together."""
import sys

import chainer
import numpy as np
from chainer.backends import cuda
from chainer.training import extensions

from chainer_caption.data import SPLITS
from chainer_caption.data.batches import MAX_WORDS, CaptionDataset, LengthBucketIterator, PackCaptions, PackShare
from chainer_caption.functions import Adam
from chainer_caption.functions.memory import free_bytes
from chainer_caption.training.extensions import (
    CaptionScores,
    Curves,
    KeepBest,
    Log,
    Progress,
    RunPage,
    Table,
    TokenEvaluator,
)

# Of the memory free on a GPU, how much the features may take so as to live there.
_FEATURES_SHARE = 0.5


def make_trainer(release, current, settings, device, output, taking, processes, shown=(), progress=None,
                 say=lambda line: None):
    """The trainer of a captioner.

    Args:
        release (Release): What to train on.
        current (Bundle): What to train; its model is moved to the device.
        settings (Settings): How.
        device (chainer.backend.Device): Where.
        output (pathlib.Path): The model directory.
        taking (TakeSnapshots): Also says when to stop early.
        processes (Processes): Who trains together.
        shown (sequence of Extension): Further ones for process 0.
        progress (file or None): A terminal to draw a progress bar on.
        say (callable): Takes notices for the user, a line each.

    Returns:
        chainer.training.Trainer: Not yet run.
    """
    model, vocabulary = current.model, current.vocabulary
    model.to_device(device)
    data = CaptionDataset.from_release(release, vocabulary, *release.training_splits)
    if data.overlong:
        say(f'{data.overlong} captions are longer than {MAX_WORDS} words and are trained on without what is over')
    optimizer = make_optimizer(model, device, processes)
    converter = make_converter(release.features, device, processes)

    def loss(*batch):
        return model(*batch, update_key=(settings.seed, processes.number(updater.iteration)))

    iterator = LengthBucketIterator(data, settings.batch_size, seed=settings.seed)
    updater = chainer.training.updaters.StandardUpdater(iterator, optimizer, converter=converter, device=device,
                                                        loss_func=loss)
    keep_best = KeepBest(current, output if processes.first else None, settings.keep_best)
    trainer = chainer.training.Trainer(updater, _stop_trigger(settings, keep_best, taking), out=str(output))
    # What fits into a line of a terminal; the log has everything.
    columns = ['epoch', 'iteration', 'main/loss']
    if SPLITS.index('val') in release.captions.splits:
        validation = LengthBucketIterator(CaptionDataset.from_release(release, vocabulary, 'val'), settings.batch_size,
                                          repeat=False, shuffle=False)
        trainer.extend(TokenEvaluator(validation, model, converter=PackCaptions(converter.features), device=device,
                                      processes=processes))
        columns += ['validation/main/loss']
        if settings.score_every:
            trainer.extend(CaptionScores(current, release, device, settings.score_every, processes))
            columns += CaptionScores.keys
    else:
        say(f'{release.dataset_path}: no image is of the split val, so the last epoch is kept and not the best')
    trainer.extend(keep_best)
    trainer.extend(Log(output, processes))
    trainer.extend(taking)
    if processes.first:
        trainer.extend(extensions.PrintReport([*columns, 'elapsed_time'], out=Table(sys.stdout)))
        for extension in (Curves(), RunPage(current, release, settings), *shown):
            trainer.extend(extension)
        if progress is not None:
            trainer.extend(Progress(settings.epochs, len(data), progress))
    return trainer


def make_optimizer(model, device, processes):
    """Adam on a model; of several processes it takes the mean gradients."""
    optimizer = Adam()
    optimizer.setup(model)
    if processes.size > 1:
        optimizer.add_hook(processes.mean_gradients(device))
    return optimizer


def make_converter(features, device, processes):
    """The converter of minibatches into this process's share of them, on the device.

    The feature matrix moves to the device if that is a GPU with room for it, and stays where it is otherwise.
    """
    features = _placed(features, device)
    return PackCaptions(features) if processes.size == 1 else PackShare(features, processes.rank, processes.size)


def _placed(features, device):
    if device.xp is not cuda.cupy:
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
