"""Snapshots: what a training leaves behind so that nothing of it is lost.

A snapshot is an `.npz` of all that Chainer's trainer serializes: parameters, Adam's state and step, the iterator's
place in the epoch, the log with the running means of its next entry, and the counters of the extensions. Randomness
needs no place in it: orders and dropout masks follow from the seed and the number of the epoch or update. So a training
that goes on from a snapshot does, to the last bit on the CPU, what it would have done had it never been stopped.

Of several processes the state is that of process 0. Extensions are known by their names. An extension of which a
snapshot has nothing, because the training was begun without it, begins afresh; what a snapshot has of one that is no
longer there is left out of the next.

The file is named after its update, `snapshot-1234.npz`, is on the disk before an older one is deleted, and carries a
SHA-256 of its contents by which one that is damaged is known. There is no pickle in it, and none is read.
"""
import contextlib
import os
import pathlib
import re
import time

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.parallel import Processes
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import parse_json, remove_temporaries, write_npz
from chainer_caption.storage.legacy import current_array_names
from chainer_caption.storage.locks import lock
from chainer_caption.storage.serializers import arrays_digest, from_arrays, to_arrays

# Besides the ends of epochs, which may be an hour apart: what a crash can cost, while writing stays below one percent.
MINUTES = 10

_NAME = re.compile(r'snapshot-(0|[1-9]\d*)\.npz')
_CHECKSUM = 'checksum'

# Where Chainer's trainer serializes its extensions, and their triggers.
_EXTENSIONS = 'extensions', 'extension_triggers'

# The extensions that a training is not itself without: what a snapshot has of them is checked, and must be there. Of
# others, such as a user's, nobody here knows what they keep.
_OWN = 'LogReport', 'KeepBest'

# What Chainer's triggers remember of when they were last asked, and how they say that they do not know: one that begins
# late would otherwise count the updates before it and act at once.
_UNKNOWN = {'previous_iteration': -1, 'previous_epoch_detail': -1.0}


class Snapshots:
    """The snapshots in a model directory.

    Args:
        folder (str or os.PathLike): The directory.
        keep (int): How many to keep there, at least one.
    """

    def __init__(self, folder, keep=2):
        self._folder = pathlib.Path(folder)
        self._keep = keep
        self._damaged = set()

    def updates(self):
        """The updates that there are snapshots of, sound or not, the latest first; a list of int."""
        found = map(_NAME.fullmatch, os.listdir(self._folder))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def write(self, trainer):
        """Writes the snapshot of a running trainer, and deletes those that are not to be kept once it is on the disk.
        """
        update = int(trainer.updater.iteration)
        save_snapshot(self._path(update), trainer)
        self._damaged.discard(update)
        self._delete_others(update)

    def _delete_others(self, update):
        kept = [other for other in self.updates() if other <= update and other not in self._damaged][:self._keep]
        for other in self.updates():
            if other not in kept:
                self._path(other).unlink(missing_ok=True)

    def load_latest(self, trainer, say=lambda line: None, processes=None):
        """Brings a trainer to where the latest sound snapshot was taken. No damaged one is deleted.

        Args:
            trainer (chainer.training.Trainer): Put together as the one that was stopped, and not yet run.
            say (callable): Takes a line that says which snapshots are damaged, if some are.
            processes (Processes or None): Those that go on together; process 0 reads for all.

        Raises:
            InputError: None is sound, or it is of another training.
        """
        processes = processes or Processes()
        update, arrays, faults = processes.broadcast(self._read_latest() if processes.first else None)
        restore(arrays, trainer, self._path(update))
        if not processes.first:
            return
        if faults:                                      # those go once there is something newer
            say(f'{"; ".join(faults)}; going on from {self._path(update).name}')
        else:
            self._delete_others(update)                 # a kill may have come before that

    def _read_latest(self):
        faults = []
        for update in self.updates():
            try:
                return update, read_snapshot(self._path(update)), faults
            except InputError as e:
                faults.append(str(e))
                self._damaged.add(update)
        raise InputError(f'{"; ".join(faults)}; no snapshot is left to go on from: put a sound copy back, or '
                         '--overwrite starts afresh')

    def _path(self, update):
        return self._folder / f'snapshot-{update}.npz'


def save_snapshot(path, target):
    """Writes what a Chainer object serializes, with a checksum, whole or not at all."""
    arrays = to_arrays(target)
    write_npz(path, {**arrays, _CHECKSUM: _checksum(arrays)})


def read_snapshot(path):
    """The arrays of a snapshot.

    Raises:
        InputError: The file is damaged; the line says how.
    """
    arrays = read_npz(path)
    written = arrays.pop(_CHECKSUM, None)
    if written is None or not np.array_equal(written, _checksum(arrays)):
        raise InputError(f'{path}: damaged (its checksum is {"missing" if written is None else "another"})')
    return current_array_names(arrays)


def restore(arrays, target, path):
    """Loads the arrays of a snapshot into an object like the one they are of.

    Args:
        arrays (dict): From `read_snapshot`.
        target: The object.
        path (str or os.PathLike): Where they are from; for the message.

    Raises:
        InputError: It is of something else.
    """
    try:
        _check_state(arrays)
        from_arrays({**_begun_afresh(arrays, target), **arrays}, target)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, Warning) as e:
        raise InputError(f'{path}: not a snapshot of this training ({type(e).__name__}: {e}); '
                         'use --overwrite to start afresh') from e


def _check_state(arrays):
    """Checks what nobody else does before it is used: that counters count, weights are finite, and the
    log is the JSON that is made of it."""
    for name, array in arrays.items():
        room, *inner = name.split('/')
        if room in _EXTENSIONS and inner[0] not in _OWN:
            continue
        kind, last = array.dtype.kind, name.rpartition('/')[2]
        if kind in 'iu' and ((array < 0) | (array >= 2 ** 53)).any():
            raise ValueError(f'{name} counts nothing')
        if kind == 'f' and array.ndim and not np.isfinite(array).all():
            raise ValueError(f'{name} holds values that are not finite')
        if last == '_log' and not _is_log(parse_json(str(array).encode('utf-8', 'replace'))):
            raise ValueError(f'{name} is no log')


def _begun_afresh(arrays, target):
    """The state, as it is now, of those extensions of a trainer, and of their triggers, that the arrays say nothing of.
    """
    found = {}
    for name, entry in getattr(target, '_extensions', {}).items():      # Chainer has no other way to them
        for room, part in zip(_EXTENSIONS, (entry.extension, entry.trigger), strict=True):
            place = f'{room}/{name}/'
            if name not in _OWN and hasattr(part, 'serialize') and not any(key.startswith(place) for key in arrays):
                found.update((place + key, np.asarray(_UNKNOWN.get(key.rpartition('/')[2], array)))
                             for key, array in to_arrays(part).items())
    return found


def _is_log(value):
    return isinstance(value, list) and all(isinstance(entry, dict) and all(
        _is_samples(of) if key == 'samples' else isinstance(of, int | float | None) for key, of in entry.items())
        for entry in value)


def _is_samples(value):
    return isinstance(value, list) and all(
        isinstance(sample, dict) and isinstance(sample.get('image_id'), int) and isinstance(sample.get('caption'), str)
        and isinstance(sample.get('filename'), str) and isinstance(sample.get('log_prob'), int | float | None)
        for sample in value)


def _checksum(arrays):
    return np.frombuffer(bytes.fromhex(arrays_digest(arrays)), np.uint8)


class TakeSnapshots(chainer.training.Extension):
    """Takes snapshots: before the first update, at the end of each epoch, after every so many updates and minutes, and
    when the training is to stop early.

    Args:
        snapshots (Snapshots): Where to.
        every (int or None): Updates between two of them; None for the ends of epochs and the minutes alone.
        stop (callable): Asked after each update whether to stop there; if it says so in one process, all stop.
        processes (Processes or None): Those that train together; process 0 writes.

    Attributes:
        snapshots (Snapshots): As given.
        stopped (bool): Whether it said so; the trainer's stop trigger looks at this.
    """
    trigger = 1, 'iteration'
    # After everything else, so that it holds what the other extensions have become.
    priority = -100

    def __init__(self, snapshots, every=None, stop=lambda: False, processes=None):
        self.snapshots = snapshots
        self._every = every
        self._stop = stop
        self._processes = processes or Processes()
        self.stopped = False

    def initialize(self, trainer):
        self._written = time.monotonic()
        if trainer.updater.iteration == 0 and not trainer.stop_trigger(trainer):
            self._write(trainer)

    def __call__(self, trainer):
        updater = trainer.updater
        due = time.monotonic() - self._written >= 60 * MINUTES
        # Signals and clocks are each process's own: what one of them wants all do.
        stop, due = self._processes.sum([not trainer.stop_trigger(trainer) and self._stop(), due])
        self.stopped = stop > 0
        if self.stopped or due or updater.is_new_epoch or (self._every and updater.iteration % self._every == 0):
            self._write(trainer)

    def _write(self, trainer):
        trainer.get_extension('LogReport').share()
        if self._processes.first:
            self.snapshots.write(trainer)
        self._written = time.monotonic()


@contextlib.contextmanager
def sole_training(folder):
    """Keeps a second training out of a model directory while the block runs, be it in another process, and deletes the
    temporary files of one that was killed.

    Raises:
        InputError: There is one.
    """
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
