"""Snapshots, from which a training is resumed.

`snapshot-1234.npz`, named after its update, is an `.npz`, without pickles and with a SHA-256 of its contents, of all
that Chainer's trainer serializes, with several processes in process 0. It holds no random state: orders and dropout
masks depend on the seed and the number of the epoch or update. On the CPU a training that is resumed from a snapshot is
equal, to the bit, to one that was never stopped. `make_trainer` tells what is kept of extensions.
"""
import contextlib
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.parallel import Processes
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import Path, parse_json, remove_temporaries, write_npz
from chainer_caption.storage.legacy import current_array_names
from chainer_caption.storage.locks import lock
from chainer_caption.storage.serializers import arrays_digest, from_arrays, to_arrays
from chainer_caption.training.updater import Say

# A crash costs at most so much, beside the ends of epochs, which may be an hour apart; writing stays below 1 %.
MINUTES = 10
_NAME = re.compile(r'snapshot-(0|[1-9]\d*)\.npz')
_CHECKSUM = 'checksum'

# Where Chainer's trainer serializes its extensions, and their triggers.
_EXTENSIONS = 'extensions', 'extension_triggers'
# Extensions whose state must be there and is checked. Others, such as a user's, may keep anything.
_OWN = 'LogReport', 'KeepBest'
# When Chainer's triggers were last asked, and their values for "unknown": a trigger that is added late would otherwise
# count the updates before it and fire at once.
_UNKNOWN = {'previous_iteration': -1, 'previous_epoch_detail': -1.0}
_SAMPLE = {'image_id': int, 'caption': str, 'filename': str, 'log_prob': int | float | None}


class Snapshots:
    """The snapshots in a model directory, of which `keep`, at least one, are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder, self._keep = pathlib.Path(folder), keep
        self._damaged: set[int] = set()

    def updates(self) -> list[int]:
        """The updates of which there are snapshots, damaged ones included, the latest first."""
        found = map(_NAME.fullmatch, os.listdir(self._folder))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def write(self, trainer: Any) -> None:
        """Writes the snapshot of a running trainer; once it is on the disk, deletes those that are not kept."""
        update = int(trainer.updater.iteration)
        save_snapshot(self._path(update), trainer)
        self._damaged.discard(update)
        self._delete_others(update)

    def _delete_others(self, update: int) -> None:
        kept = [other for other in self.updates() if other <= update and other not in self._damaged][:self._keep]
        for other in self.updates():
            if other not in kept:
                self._path(other).unlink(missing_ok=True)

    def load_latest(self, trainer: Any, say: Say = lambda line: None, processes: Processes | None = None) -> None:
        """Brings a trainer, put together as the one that was stopped and not yet run, to where the latest sound
        snapshot was taken. Damaged ones are kept; `say` takes a line on them. Process 0 reads for all. Raises
        InputError where all are damaged, or the snapshot is of another training."""
        processes = processes or Processes()
        found: Any = self._read_latest() if processes.first else None
        update, arrays, faults = processes.broadcast(found)
        restore(arrays, trainer, self._path(update))
        if not processes.first:
            return
        if faults:                                      # damaged ones are deleted once there is a newer one
            say(f'{"; ".join(faults)}; going on from {self._path(update).name}')
        else:
            self._delete_others(update)                 # a kill may have come before that

    def _read_latest(self) -> tuple[int, dict[str, np.ndarray], list[str]]:
        faults: list[str] = []
        for update in self.updates():
            try:
                return update, read_snapshot(self._path(update)), faults
            except InputError as e:
                faults.append(str(e))
                self._damaged.add(update)
        raise InputError(f'{"; ".join(faults)}; no snapshot is left to resume from: put a sound copy back, or '
                         'use --overwrite to start again')

    def _path(self, update: int) -> pathlib.Path:
        return self._folder / f'snapshot-{update}.npz'


def save_snapshot(path: Path, target: Any) -> None:
    """Writes the state of a Chainer object, with a checksum, whole or not at all."""
    arrays = to_arrays(target)
    write_npz(path, {**arrays, _CHECKSUM: _checksum(arrays)})


def read_snapshot(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a snapshot. Raises InputError where the file is damaged."""
    arrays = read_npz(path)
    written = arrays.pop(_CHECKSUM, None)
    if written is None or not np.array_equal(written, _checksum(arrays)):
        raise InputError(f'{path}: damaged (its checksum is {"missing" if written is None else "wrong"})')
    return current_array_names(arrays)


def restore(arrays: dict[str, np.ndarray], target: Any, path: Path) -> None:
    """Loads the arrays of a snapshot, from `read_snapshot`, into an object like the saved one; raises InputError, which
    names the path, where they are of another object."""
    try:
        _check_state(arrays)
        from_arrays({**_new_state(arrays, target), **arrays}, target)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, Warning) as e:
        raise InputError(f'{path}: not a snapshot of this training ({type(e).__name__}: {e}); '
                         'use --overwrite to start again') from e


def _check_state(arrays: dict[str, np.ndarray]) -> None:
    """Checks that counters are counts, weights are finite, and the log is one."""
    for name, array in arrays.items():
        room, *inner = name.split('/')
        if room in _EXTENSIONS and inner[0] not in _OWN:
            continue
        kind, last = array.dtype.kind, name.rpartition('/')[2]
        if kind in 'iu' and ((array < 0) | (array >= 2 ** 53)).any():
            raise ValueError(f'{name} is no count')
        if kind == 'f' and array.ndim and not np.isfinite(array).all():
            raise ValueError(f'{name} holds values that are not finite')
        if last == '_log' and not _is_log(parse_json(str(array).encode('utf-8', 'replace'))):
            raise ValueError(f'{name} is no log')


def _new_state(arrays: dict[str, np.ndarray], target: Any) -> dict[str, np.ndarray]:
    """The current state of those extensions of a trainer, and of their triggers, that the arrays lack."""
    found: dict[str, np.ndarray] = {}
    for name, entry in getattr(target, '_extensions', {}).items():      # Chainer has no other way to them
        for room, part in zip(_EXTENSIONS, (entry.extension, entry.trigger), strict=True):
            place = f'{room}/{name}/'
            if name not in _OWN and hasattr(part, 'serialize') and not any(key.startswith(place) for key in arrays):
                found.update((place + key, np.asarray(_UNKNOWN.get(key.rpartition('/')[2], array)))
                             for key, array in to_arrays(part).items())
    return found


def _is_log(value: Any) -> bool:
    return _are_dicts(value) and all(
        _are_dicts(of) and all(isinstance(sample.get(name), kind) for sample in of for name, kind in _SAMPLE.items())
        if key == 'samples' else isinstance(of, int | float | None) for entry in value for key, of in entry.items())


def _are_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(arrays_digest(arrays)), np.uint8)


class TakeSnapshots(chainer.training.Extension):
    """Takes snapshots, in process 0: before the first update, at the end of each epoch, after every `every` updates (if
    not None) and MINUTES minutes, and when the training stops early.

    `stop` is asked after each update whether to stop there; a yes in one process stops all. Then `stopped` is true, for
    the trainer's stop trigger.
    """
    trigger = 1, 'iteration'
    priority = -100                                     # after all other extensions, whose state it saves

    def __init__(self, snapshots: Snapshots, every: int | None = None, stop: Callable[[], bool] = lambda: False,
                 processes: Processes | None = None) -> None:
        self.snapshots, self.stopped = snapshots, False
        self._every, self._stop, self._processes = every, stop, processes or Processes()

    def initialize(self, trainer: Any) -> None:
        self._written = time.monotonic()
        if trainer.updater.iteration == 0 and not trainer.stop_trigger(trainer):
            self._write(trainer)

    def __call__(self, trainer: Any) -> None:
        updater = trainer.updater
        due = time.monotonic() - self._written >= 60 * MINUTES
        # Signals and clocks differ between processes: what one wants, all do.
        stop, due = self._processes.sum([not trainer.stop_trigger(trainer) and self._stop(), due])
        self.stopped = stop > 0
        if self.stopped or due or updater.is_new_epoch or (self._every and updater.iteration % self._every == 0):
            self._write(trainer)

    def _write(self, trainer: Any) -> None:
        trainer.get_extension('LogReport').share()
        if self._processes.first:
            self.snapshots.write(trainer)
        self._written = time.monotonic()


@contextlib.contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Locks a model directory against a second training, and deletes the temporary files of one that was killed. Raises
    InputError where it is locked."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            lock(handle, folder)
        except BlockingIOError as e:
            raise InputError(f'{folder}: another training is writing it; wait until that has ended') from e
        remove_temporaries(folder)
        yield
    finally:
        os.close(handle)                                # and with it the lock; a killed process's goes by itself
