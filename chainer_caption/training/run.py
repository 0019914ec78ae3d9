"""Runs a training, safe against everything that may end it early."""
import contextlib
import dataclasses
import pathlib

import chainer

from chainer_caption.errors import InputError
from chainer_caption.functions.matmul import using_precision
from chainer_caption.functions.memory import enough_memory
from chainer_caption.models import bundle
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import unwritable, write_json
from chainer_caption.training.extensions import WATCHED
from chainer_caption.training.initialization import begin
from chainer_caption.training.online_features import OnlineFeatures, find_training_images
from chainer_caption.training.settings import Settings, check_same, read_settings
from chainer_caption.training.snapshots import Snapshots, sole_training
from chainer_caption.training.trainer import check_model, check_possible, make_trainer


def train(dataset, output, settings=None, device='@numpy', resume=False, overwrite=False, start_from=None,
          provenance=None,
          extensions=(), progress=None, say=lambda line: None, stop=lambda: False, processes=None, images=None,
          encoder_weights=None):
    """Trains a captioner and writes its model directory, in which the best epoch's weights are kept.

    Args:
        dataset (Dataset): What to train on: its splits `train` and `restval`; `val` chooses the best epoch.
        output (str or os.PathLike): The model directory.
        settings (Settings): None for the defaults.
        device (str or chainer.backend.Device): Where to train.
        resume (bool): Go on with the training of the model directory, if there is one.
        overwrite (bool): Replace a model that is there already.
        start_from (str or os.PathLike or None): A model directory, whose vocabulary is kept, or a `weights.npz` in the
            layout of Chainer's `save_npz` that fits the dataset's vocabulary.
        provenance (dict or None): The `encoder` and `preprocessing` that made the features, where the dataset does not
            record them.
        extensions (sequence of chainer.training.Extension): Further ones for the trainer of this process;
            `make_trainer` says when they act, and what a snapshot keeps of them. Others may come when it is resumed.
        progress (file or None): A terminal to draw a progress bar on.
        say (callable): Takes notices for the user, a line each.
        stop (callable): Asked after each update whether to stop there. If so, a snapshot is taken to go on from, and
            where no epoch has ended yet, the weights are kept as they are.
        processes (Processes or None): Those that train together, each of which calls this with the same arguments, but
            for a device of its own (`Processes.device`) and perhaps other extensions; process 0 alone reads and writes
            the model directory. None trains in this process alone.
        images (str or os.PathLike or None): The folder of the dataset's images, in whatever order and folders below
            it, where `settings` have the image encoder learn, too.
        encoder_weights (str or os.PathLike or None): The weights that the image encoder begins with; by default those
            of `start_from`, or if it has none, they are looked for where Chainer keeps its models.

    Returns:
        Bundle: The model of the best epoch.

    Raises:
        InputError: Something about the dataset, the settings or the folder is wrong, or a file cannot be written; the
            line says what. What had been written before is whole.
    """
    output = pathlib.Path(output)
    settings = settings or Settings()
    processes = processes or Processes()
    device = chainer.get_device(device)
    paths = chosen = None
    if settings.finetune is not None:
        if images is None:
            raise InputError('--finetune needs the images: name their folder with --images')
        dataset, paths, chosen = find_training_images(dataset, images, say)
    check_possible(dataset, settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_with_filename(output))
        stack.enter_context(enough_memory(device, 'lower --batch-size or --hidden'))
        stack.enter_context(using_precision(settings.precision, device, say))
        current, going_on = None, False
        if processes.first:
            bundle.check_new(output, resume, overwrite)
            stack.enter_context(sole_training(output))
            current, going_on = _prepare(dataset, output, settings, start_from, provenance, resume, say,
                                         {'images': chosen, 'encoder_weights': encoder_weights})
        current, going_on = processes.broadcast((current, going_on))
        online_features = None
        if paths is not None:
            with chainer.using_device(device):
                online_features = OnlineFeatures(dataset, current, settings, paths, device, processes, progress, say)
            dataset = online_features.dataset
        trainer = make_trainer(dataset, current, output, settings, device, extensions, progress, say, stop, processes,
                               online_features)
        taking = trainer.get_extension('TakeSnapshots')
        if going_on:
            taking.snapshots.load_latest(trainer, say, processes)
        if processes.first:
            write_json(output / bundle.VOCABULARY, current.vocabulary.to_json(), indent=None)
            if current.encoder is not None and not going_on:
                current.save_encoder(output)
            current.save_config(output)                 # the last: a folder that has it can be resumed
        with chainer.using_device(device):
            trainer.run(show_loop_exception_msg=False)
        best = None
        if processes.first:
            measured = trainer.get_extension('LogReport').log
            if not measured or not (output / bundle.WEIGHTS).exists():
                with trainer.updater.get_optimizer('main').averaged():
                    current.save_weights(output)        # there is none yet that could be the best
            if taking.stopped:
                say(f'stopped at update {trainer.updater.iteration}' + (
                    '' if measured else ', before the end of an epoch; the model is that of this update')
                    + '; --resume goes on')
            best = Bundle.load(output)
        return processes.broadcast(best)


@contextlib.contextmanager
def _with_filename(output):
    """Whatever cannot be written becomes one line that names it."""
    try:
        yield
    except BrokenPipeError:                             # of standard output; the command line knows what to do
        raise
    except OSError as e:
        raise unwritable(e.filename or output, e) from e


def _prepare(dataset, output, settings, start_from, provenance, resume, say, seen):
    """What to train, and whether there is a snapshot to go on from."""
    before = read_settings(output) if resume else None
    if before is not None and settings.architecture in (None, before['architecture']):
        # What is not said is what it was begun with.
        unsaid = [name for name in ('architecture', 'hidden', 'max_positions') if getattr(settings, name) is None]
        settings = dataclasses.replace(settings, **{name: before[name] for name in unsaid})
    current = begin(dataset, settings, start_from, provenance, before and output, **seen)
    check_model(dataset, current, settings)
    if before is None:
        # Not before everything that was asked for has been found possible; it may even start from what is replaced.
        bundle.clear(output, WATCHED, keep_model=_same(start_from, output))
        return current, False
    check_same(output, before, current.training, start_from)
    if Snapshots(output).updates():
        return current, True
    if (output / bundle.WEIGHTS).exists():
        current.model = Bundle.load(output).model
        say(f'{output}: no snapshot in it; training begins with its weights')
    elif start_from is None and 'start_from' in before:
        raise InputError(f'{output}: was stopped before its first update; say once more what it starts from (-m)')
    return current, False


def _same(start_from, output):
    """Whether a training starts from the model that it replaces, which then stays until there is a better one."""
    return start_from is not None and any(
        path.exists() and path.samefile(start_from) for path in (output, output / bundle.WEIGHTS))
