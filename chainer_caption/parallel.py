"""Several processes started by mpiexec that work as one, by ChainerMN and MPI; or this process alone.

Only process 0 prints and writes. From the same seed each process makes the same minibatches and takes its share of them
(`batches.PackShare`), so only gradients and figures are exchanged."""
import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from chainer_caption.errors import InputError

T = TypeVar('T')

# Environment variables of a process's rank and of the number of processes: of Open MPI, of MPICH and its kin, and of
# Slurm through PMIx. PMIx has no number of processes; SLURM_NTASKS may be that of the whole job, so the step's is
# used. Open MPI uses PMIx, too, and may run within a Slurm step, so its own variables come first.
_VARIABLES = (('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'), ('PMI_RANK', 'PMI_SIZE'),
              ('PMIX_RANK', 'SLURM_STEP_NUM_TASKS'))


def told_rank(environment: Mapping[str, str]) -> str | None:
    """This process's rank according to the environment (as `os.environ`); None for a single process."""
    return next((None if environment.get(size) == '1' else environment[rank]
                 for rank, size in _VARIABLES if rank in environment), None)


RANK = told_rank(os.environ)
_DEFERENCE = 2      # seconds for which the others let process 0 print an error, which is usually the same in all


class Processes:
    """The processes of this run. `rank` is this process's number, from 0, `size` the number of processes; `first` tells
    whether this is process 0, which prints and writes."""

    def __init__(self, comm: Any = None) -> None:
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        self._comm, self.first = comm, self.rank == 0

    @classmethod
    def started(cls) -> 'Processes':
        """The processes that mpiexec started together with this one, or this one alone. Raises InputError if mpiexec
        started it and mpi4py is not installed."""
        if RANK is None:
            return cls()
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as e:
            raise InputError(f'started by mpiexec, but mpi4py cannot be used ({e}); scripts/setup.sh mpi installs '
                             'it') from e
        return cls(MPI.COMM_WORLD) if MPI.COMM_WORLD.Get_size() > 1 else cls()

    def device(self, device: Any) -> Any:
        """The device of this process, by the chainer.backend.Device of the first process of each host.

        On the CPU it is the same. Processes of a host that see the same GPUs take one each, from that one on; where a
        launcher such as Slurm shows each process its own GPU, it takes that. Raises InputError if there are fewer GPUs
        than processes that see them."""
        import chainer
        from chainer.backends import cuda
        if device.xp is not cuda.cupy:
            return device
        if self._comm is not None:
            runtime = cuda.cupy.cuda.runtime
            # Their addresses on the bus: a number means another GPU where others are visible.
            seen = [runtime.deviceGetPCIBusId(i) for i in range(runtime.getDeviceCount())]
            host = self._host()
            number = device.device.id + host.allgather(seen)[:host.Get_rank()].count(seen)
            if number >= len(seen):
                raise InputError(f'process {self.rank} needs GPU {number} and sees {len(seen)}; '
                                 'start no more processes on a host than it has GPUs')
            device = chainer.get_device(f'@cupy:{number}')
        with chainer.using_device(device):
            cuda.cupy.zeros(1)                          # an unusable GPU fails here, not before
        return device

    def one_after_another(self, make: Callable[[], T]) -> T:
        """Calls a function in the first process of each host and then in the others, which find what it cached."""
        if self._comm is None:
            return make()
        host = self._host()
        if host.Get_rank():
            host.Barrier()
            return make()
        made = make()
        host.Barrier()
        return made

    def _host(self) -> Any:
        """The communicator of the processes of this host."""
        from mpi4py import MPI
        return self._comm.Split_type(MPI.COMM_TYPE_SHARED)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a sequence."""
        return items[self.rank::self.size]

    def sum(self, values: Any) -> np.ndarray:
        """The sums of each process's values over all processes; float64, the same in each process."""
        values = np.array(values, np.float64)
        if self._comm is not None:
            self._comm.Allreduce(values.copy(), values)
        return values

    def broadcast(self, value: T) -> T:
        """Process 0's value in all processes."""
        return value if self._comm is None else self._comm.bcast(value)

    def gather(self, value: T) -> list[T] | None:
        """The list of all processes' values in process 0; None in the others."""
        return [value] if self._comm is None else self._comm.gather(value)

    def map(self, function: Callable[[list[Any]], Iterable[T]], items: Sequence[Any], batch: int,
            done: int = 0) -> Iterator[T]:
        """Processes a sequence together: the processes take whole batches in turn, the same ones as a single process.

        The function takes a list of items, the same in each process, and returns an iterable of one result for each.
        `batch` is the number of items in a batch, `done` that of items that are done already; process 0's counts.
        Yields the results in order, in process 0; nothing in the others."""
        items = items[self.broadcast(done):]
        batches = [items[i:i + batch] for i in range(0, len(items), batch)]
        # The function is called here: what it refuses is refused before a file for the results is opened.
        return self._in_turn(batches, iter(function([item for share in self.share(batches) for item in share])))

    def _in_turn(self, batches: list[Sequence[Any]], mine: Iterator[T]) -> Iterator[T]:
        for number, part in enumerate(batches):
            owner = number % self.size
            if self.first:
                yield from self._comm.recv(source=owner) if owner else itertools.islice(mine, len(part))
            elif owner == self.rank:
                # A synchronous send: no process runs ahead of process 0.
                self._comm.ssend(list(itertools.islice(mine, len(part))), 0)

    def number(self, update: int) -> int:
        """A number that no other process and no other update has, for the seeds of dropout masks."""
        return update * self.size + self.rank

    def mean_gradients(self, device: Any) -> 'MeanGradients':
        """The optimizer hook that averages gradients over the processes. Raises InputError if they train on GPUs and
        CuPy finds no NCCL."""
        import chainermn
        from chainer.backends import cuda
        if device.xp is not cuda.cupy:
            return MeanGradients(chainermn.create_communicator('naive', self._comm))
        try:
            communicator = chainermn.create_communicator('pure_nccl', self._comm)
        except RuntimeError as e:
            raise InputError(f'several GPUs need NCCL, and CuPy has none ({e}); install nvidia-nccl-cu13 or '
                             'nvidia-nccl-cu12, as scripts/setup.sh cuda13x or cuda12x does') from e
        # Its kernels that copy all gradients at once do not compile with CuPy 14, which lacks cuda_fp16.h; one copy for
        # each parameter works. `set_config` would lose the value.
        with communicator.config_scope():
            communicator.batched_copy = False
        return MeanGradients(communicator)


class MeanGradients:
    """Optimizer hook that averages gradients over the processes of a chainermn.CommunicatorBase before the update.

    ChainerMN's multi-node optimizer spends the first update on making the weights equal; here they are equal from the
    start, and N processes make the same updates as one."""
    name, timing, call_for_each_param = 'MeanGradients', 'pre', False

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator

    def __call__(self, optimizer: Any) -> None:
        self._communicator.multi_node_mean_grad(optimizer.target)


class SharedContext:
    """A context manager for process-wide settings in any number of threads: the first to enter sets it up by the
    context manager that `make` returns, the last to leave undoes it. `inside` is the number of threads inside."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._lock, self._undo, self.inside = make, threading.Lock(), contextlib.ExitStack(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self.inside:
                self._undo.enter_context(self._make())
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self.inside -= 1
            if not self.inside:
                self._undo.close()


def defer() -> None:
    """Before a process prints an error: all but process 0 wait, in which time process 0 may print it and end them."""
    if RANK not in (None, '0'):
        time.sleep(_DEFERENCE)


def end(status: int) -> None:
    """Ends all processes with an exit status, if there are several: after a failure the others would wait for ever."""
    if 'mpi4py.MPI' in sys.modules:
        comm = sys.modules['mpi4py.MPI'].COMM_WORLD
        if comm.Get_size() > 1:
            comm.Abort(status)
