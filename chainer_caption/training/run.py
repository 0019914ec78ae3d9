"""Runs a training so that nothing is lost, however it ends."""
import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chainer

from chainer_caption.data.text import Text, read_text
from chainer_caption.errors import InputError
from chainer_caption.functions.matmul import using_precision
from chainer_caption.functions.memory import enough_memory
from chainer_caption.models import bundle
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.familiarity import FAMILIARITY
from chainer_caption.parallel import Processes
from chainer_caption.storage.files import Path, unwritable, write_json
from chainer_caption.training import plan as planning
from chainer_caption.training.extensions import WATCHED
from chainer_caption.training.familiarity import add_familiarity
from chainer_caption.training.objectives import choose_objective
from chainer_caption.training.online_features import OnlineFeatures, find_training_images
from chainer_caption.training.settings import Settings
from chainer_caption.training.snapshots import Snapshots, sole_training
from chainer_caption.training.trainer import check_model, check_possible, make_trainer
from chainer_caption.training.updater import Objective, Say
from chainer_caption.training.vocabulary import make_vocabulary


def train(dataset: Any, output: Path, settings: Settings | None = None, device: Any = '@numpy', resume: bool = False,
          overwrite: bool = False, start_from: Path | None = None, provenance: dict[str, str] | None = None,
          extensions: Sequence[Any] = (), progress: Any = None, say: Say = lambda line: None,
          stop: Callable[[], bool] = lambda: False, processes: Processes | None = None, images: Path | None = None,
          encoder_weights: Path | None = None, objective: Objective | str | None = None) -> Bundle:
    """Trains a captioner, writes its model directory, and returns the model of the best epoch, which it keeps.

    Args:
        dataset: Dataset to train on, or several as one (`data.combine`): its splits `train` and `restval`; `val`
            chooses the best epoch.
        output, device: The model directory, and the Chainer device to train on.
        settings: None for the defaults.
        resume: Go on with the training of the model directory, if there is one.
        overwrite: Replace a model that is already there.
        start_from: A model directory, whose vocabulary is kept, or a `weights.npz` in the layout of Chainer's
            `save_npz` that fits the dataset's vocabulary.
        provenance: The `encoder` and `preprocessing` of the features, where the dataset does not record them.
        extensions: Further trainer extensions for this process; `make_trainer` documents when they act, and what a
            snapshot keeps of them. A resumed training may have others.
        progress, say: Terminal to draw a progress bar on; takes notices for the user, a line each.
        stop: Asked after each update whether to stop there. Then a snapshot is taken to go on from; before the end of
            the first epoch, the weights are kept as they are.
        processes: Processes that train together; None for this one alone. Each calls this with the same arguments,
            except a device of its own (`Processes.device`) and perhaps other extensions. Process 0 reads and writes.
        images, encoder_weights: Fine-tuning: folder of the dataset's images, which may be in folders below it; weights
            of the image encoder, by default those of `start_from` or of Chainer's model folder.
        objective: An instance of a registered `Objective`, or its name; None takes that of the settings.

    Raises InputError where the dataset, the settings or the folder is wrong, or a file cannot be written. What has been
    written before is whole.
    """
    output = pathlib.Path(output)
    settings, objective = choose_objective(settings or Settings(), objective)
    processes, device = processes or Processes(), chainer.get_device(device)
    paths = chosen = None
    if settings.finetune is not None:
        dataset, paths, chosen = _find_images(dataset, settings, images, say)
    check_possible(dataset, settings)
    text = None if settings.text is None else read_text(settings.text, dataset.captions.tokenizer)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_with_filename(output))
        stack.enter_context(enough_memory(device, 'lower --batch-size or --hidden'))
        stack.enter_context(using_precision(settings.precision, device, say))
        prepared: Any = None                            # in process 0 only
        if processes.first:
            bundle.check_new(output, resume, overwrite)
            stack.enter_context(sole_training(output))
            plan = planning.make_plan(output, settings, objective, start_from, resume, chosen, encoder_weights)
            prepared = _prepare(plan, dataset, output, provenance, start_from, say, text)
        current, going_on = processes.broadcast(prepared)
        online_features = None
        if paths is not None:
            with chainer.using_device(device):
                online_features = OnlineFeatures(dataset, current, settings, paths, device, processes, progress, say)
            dataset = online_features.dataset
        trainer = make_trainer(dataset, current, output, settings, device, extensions, progress, say, stop, processes,
                               online_features, objective, text)
        taking = trainer.get_extension('TakeSnapshots')
        if going_on:
            taking.snapshots.load_latest(trainer, say, processes)
        if processes.first:
            (output / FAMILIARITY).unlink(missing_ok=True)      # the weights are going to change
            write_json(output / bundle.VOCABULARY, current.vocabulary.to_json(), indent=None)
            if current.encoder is not None and not going_on:
                current.save_encoder(output)
            current.save_config(output)                 # last: a folder that has it can be resumed
        with chainer.using_device(device):
            trainer.run(show_loop_exception_msg=False)
        best: Any = None
        if processes.first:
            measured = trainer.get_extension('LogReport').log
            if not measured or not (output / bundle.WEIGHTS).exists():
                with trainer.updater.get_optimizer('main').averaged():
                    current.save_weights(output)        # no epoch has ended that could be the best
            if taking.stopped:
                early = '' if measured else ', before the end of an epoch; the model is that of this update'
                say(f'stopped at update {trainer.updater.iteration}{early}; --resume goes on')
            add_familiarity(output, dataset, device, settings.seed, paths, say)
            best = Bundle.load(output)
        return processes.broadcast(best)


def _find_images(dataset: Any, settings: Settings, images: Path | None, say: Say) -> Any:
    """As `find_training_images`, for fine-tuning."""
    if images is None:
        raise InputError.of('finetune', settings.finetune,
                            'needs the images of the dataset: name their folder with --images')
    if hasattr(dataset, 'parts'):
        raise InputError.of('finetune', settings.finetune,
                            'takes one dataset: images of several may have the same names')
    return find_training_images(dataset, images, say)


@contextlib.contextmanager
def _with_filename(output: pathlib.Path) -> Iterator[None]:
    """Turns a write error into one line that names the file."""
    try:
        yield
    except BrokenPipeError:                             # of standard output; the command line handles it
        raise
    except OSError as e:
        raise unwritable(e.filename or output, e) from e


def _prepare(plan: planning.Plan, dataset: Any, output: pathlib.Path, declared: dict[str, str] | None,
             start_from: Path | None, say: Say, text: Text | None) -> tuple[Bundle, bool]:
    """What is trained, and whether there is a snapshot to go on from. Clears the folder for a new training."""
    dataset = dataset.reading(plan.architecture.reads)
    provenance = planning.known_provenance(dataset, declared)
    plan.check(dataset, provenance)
    own = output / bundle.WEIGHTS
    keep = plan.weights is not None and own.exists() and own.samefile(plan.weights)
    if keep and plan.settings.extend_vocabulary:
        raise InputError(f'{output}: a model with a longer vocabulary cannot replace the one that it starts from; '
                         'choose another folder')
    vocabulary, min_count = make_vocabulary(plan, dataset, say, text)
    current = planning.make_model(plan, dataset, vocabulary, min_count, provenance, text)
    planning.add_encoder(plan, current)
    check_model(dataset, current, plan.objective)
    if plan.before is None:
        # Only now, when all that was asked for is possible. A model that the training starts from, and replaces, stays
        # until there is a better one.
        bundle.clear(output, WATCHED, keep_model=keep)
        return current, False
    planning.check_same(plan, current.training)
    if Snapshots(output).updates():
        return current, True
    if (output / bundle.WEIGHTS).exists():
        current.model = Bundle.load(output).model
        say(f'{output}: no snapshot in it; training begins with its weights')
    elif start_from is None and 'start_from' in plan.before:
        raise InputError(f'{output}: was stopped before its first update; name again what it starts from (-m)')
    return current, False
