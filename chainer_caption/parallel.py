"""Several processes that work as one: those that mpiexec has started, by way of ChainerMN and MPI; or this one alone.

Only process 0 prints and writes. The processes agree without asking wherever they can: from the same seed each draws
the same minibatches and takes its share of them (`batches.PackShare`), so gradients and figures are all that travels.
"""
import contextlib
import itertools
import os
import sys
import threading
import time

import numpy as np

from chainer_caption.errors import InputError

# How a process is told which of several it is and how many they are: by Open MPI, by MPICH and its kin, and by Slurm
# through PMIx. PMIx has no number, so Slurm's of the step is taken; SLURM_NTASKS may be that of the whole job. Open MPI
# uses PMIx, too, and may itself have been started within a step, so its own word comes first.
_TOLD = (('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'), ('PMI_RANK', 'PMI_SIZE'),
         ('PMIX_RANK', 'SLURM_STEP_NUM_TASKS'))


def told_rank(environment):
    """Which of several processes this one is, as who started it has told it.

    Args:
        environment (dict): As `os.environ`.

    Returns:
        str or None: None where it is alone: a single task needs no MPI.
    """
    for rank, size in _TOLD:
        if rank in environment:
            return None if environment.get(size) == '1' else environment[rank]
    return None


RANK = told_rank(os.environ)

# Seconds for which the processes leave it to process 0 to say what is wrong, because what is wrong is as a rule wrong
# for all of them.
_DEFERENCE = 2


class Processes:
    """The processes at work.

    Attributes:
        rank (int): Which of them this is, from 0.
        size (int): How many there are.
        first (bool): Whether this is the one that prints and writes.
    """

    def __init__(self, comm=None):
        self._comm = comm
        self.rank = 0 if comm is None else comm.Get_rank()
        self.size = 1 if comm is None else comm.Get_size()
        self.first = self.rank == 0

    @classmethod
    def started(cls):
        """Those that were started together with this one by mpiexec, or this one alone.

        Raises:
            InputError: mpiexec has started this process, and mpi4py, which would tell it more, is not installed.
        """
        if RANK is None:
            return cls()
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as e:
            raise InputError(f'started by mpiexec, but mpi4py cannot be used ({e}); '
                             'scripts/setup.sh mpi installs it') from e
        return cls(MPI.COMM_WORLD) if MPI.COMM_WORLD.Get_size() > 1 else cls()

    def device(self, device):
        """The device of this process: on the CPU as given. The processes of a host that see the same GPUs take one
        each, from the given one on; where a launcher such as Slurm shows each its own, that is the one it takes.

        Args:
            device (chainer.backend.Device): The device of the first process of each host.

        Raises:
            InputError: There are fewer GPUs than processes that see them.
        """
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
                raise InputError(f'-g: process {self.rank} needs GPU {number} and sees {len(seen)}; '
                                 'start no more processes on a host than it has GPUs')
            device = chainer.get_device(f'@cupy:{number}')
        with chainer.using_device(device):
            cuda.cupy.zeros(1)                          # what cannot be used is noticed here and no sooner
        return device

    def one_after_another(self, make):
        """Calls a function in the first process of each host, and then in the others: what the first one finds and
        leaves in a cache the others find there."""
        if self._comm is None:
            return make()
        host = self._host()
        if host.Get_rank() == 0:
            made = make()
            host.Barrier()
            return made
        host.Barrier()
        return make()

    def _host(self):
        """The communicator of the processes of this host."""
        from mpi4py import MPI
        return self._comm.Split_type(MPI.COMM_TYPE_SHARED)

    def share(self, items):
        """This process's part of a sequence."""
        return items[self.rank::self.size]

    def sum(self, values):
        """The sums over processes.

        Args:
            values (sequence of float): This process's summands.

        Returns:
            numpy.ndarray: float64, the same in each process.
        """
        values = np.array(values, np.float64)
        if self._comm is not None:
            self._comm.Allreduce(values.copy(), values)
        return values

    def broadcast(self, value):
        """What process 0 has for all (the value that the others give is not looked at)."""
        return value if self._comm is None else self._comm.bcast(value)

    def gather(self, value):
        """In process 0 the list of what all processes have; None in the others."""
        return [value] if self._comm is None else self._comm.gather(value)

    def map(self, function, items, batch, done=0):
        """Works on a sequence together: the processes take whole batches in turn, which begin where they would if there
        was only one.

        Args:
            function (callable): Takes a list of items and gives an iterator of a result for each.
            items (list): The same in each process.
            batch (int): How many go together.
            done (int): How many have been worked on before; process 0 says it.

        Yields:
            The results, in order; in process 0, where all of them come together. Elsewhere nothing.
        """
        items = items[self.broadcast(done):]
        batches = [items[i:i + batch] for i in range(0, len(items), batch)]
        # Called at once, and what it refuses is refused before anything is opened for the results.
        return self._in_turn(batches, iter(function([item for share in self.share(batches) for item in share])))

    def _in_turn(self, batches, mine):
        for number, part in enumerate(batches):
            owner = number % self.size
            if self.first:
                yield from self._comm.recv(source=owner) if owner else itertools.islice(mine, len(part))
            elif owner == self.rank:
                # Waits until it has been taken: nobody runs ahead with all that it finds.
                self._comm.ssend(list(itertools.islice(mine, len(part))), 0)

    def number(self, update):
        """A number that no other process and no other update has; dropout masks that differ follow from it."""
        return update * self.size + self.rank

    def mean_gradients(self, device):
        """The optimizer hook that averages gradients over several processes (see `MeanGradients`).

        Raises:
            InputError: The processes are to train on GPUs, and CuPy has no NCCL, by which those talk to each other.
        """
        import chainermn
        from chainer.backends import cuda
        if device.xp is not cuda.cupy:
            return MeanGradients(chainermn.create_communicator('naive', self._comm))
        try:
            communicator = chainermn.create_communicator('pure_nccl', self._comm)
        except RuntimeError as e:
            raise InputError(f'several GPUs need NCCL, and CuPy has none ({e}); install nvidia-nccl-cu13 or '
                             'nvidia-nccl-cu12') from e
        # Its kernels that copy all gradients at once do not compile with CuPy 14, which leaves cuda_fp16.h out; a copy
        # for each parameter does as well. `set_config` would lose the value on its way.
        with communicator.config_scope():
            communicator.batched_copy = False
        return MeanGradients(communicator)


class MeanGradients:
    """An optimizer hook: the gradients become their means over the processes, before the update.

    ChainerMN's own multi-node optimizer does the same, but spends the first update on making the weights equal; here
    they are equal from the start, and N processes take the very updates that one would.

    Args:
        communicator (chainermn.CommunicatorBase): Who means the gradients.
    """
    name = 'MeanGradients'
    timing = 'pre'
    call_for_each_param = False

    def __init__(self, communicator):
        self._communicator = communicator

    def __call__(self, optimizer):
        self._communicator.multi_node_mean_grad(optimizer.target)


class SharedContext:
    """A context manager for any number of threads: the first to come in sets it up, the last to go out undoes it.

    Settings of the process that each thread set up and undid by itself would be undone while others rely on them.

    Args:
        make (callable): Gives the context manager that sets it up and undoes it; called whenever somebody is the first.

    Attributes:
        inside (int): How many are in it.
    """

    def __init__(self, make):
        self._make = make
        self._lock = threading.Lock()
        self._undo = contextlib.ExitStack()
        self.inside = 0

    def __enter__(self):
        with self._lock:
            if not self.inside:
                self._undo.enter_context(self._make())
            self.inside += 1

    def __exit__(self, *exception):
        with self._lock:
            self.inside -= 1
            if not self.inside:
                self._undo.close()


def defer():
    """Called by a process that is about to say what has gone wrong: all but process 0 wait for a moment, in which
    process 0 may say the same and end them."""
    if RANK not in (None, '0'):
        time.sleep(_DEFERENCE)


def end(status):
    """Ends all processes with an exit status, if there are others; one that has failed calls this, because its partners
    would wait for it for ever."""
    if 'mpi4py.MPI' in sys.modules:
        comm = sys.modules['mpi4py.MPI'].COMM_WORLD
        if comm.Get_size() > 1:
            comm.Abort(status)
