"""Fuzzes every reader of untrusted files: whatever the bytes, reading succeeds or raises an InputError.

    python tests/fuzz.py --inputs 100000 [--reader NAME ...] [--seed S] [--keep FOLDER]

Inputs depend on the seed, the reader and their number only. A worker process reports each input before it reads it, so
that a crash is counted like any other exception, and a hang (more than 20 seconds of processor time) like a crash.
Memory is limited, and growth beyond a bound is a finding. The exit status is 0 if nothing was found.
"""
import argparse
import collections
import contextlib
import gc
import io
import json
import os
import pathlib
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import fuzz_inputs as inputs
from h5py import h5f

import chainer_caption.compat  # noqa: F401 (before anything imports Chainer)
from chainer_caption import InputError
from chainer_caption.features.images import ImageError
from chainer_caption.storage import child, children

SECONDS = 20                    # of processor time for an input
MEMORY = 300 * 2 ** 20          # bytes by which an input may raise the process's peak
ADDRESSES = 3 * 2 ** 30         # bytes of address space beyond what the worker has at its start
FILES = 100                     # files that one fork of the worker reads
PATIENCE = 0.5                  # seconds before a fork is killed whose file is no longer needed


def make(name, reader, seed, number):
    """Input `number` of a reader."""
    rng = random.Random(f'{seed} {name} {number}')
    if reader.make is not None and rng.random() < 0.6:
        return reader.make(rng, reader.seeds)
    return inputs.mutate(rng, reader.seeds)


crashes = collections.Counter()     # of children that read files by C code
idle = []                           # forks without a file to read

_OF_FILES = h5f.OBJ_FILE | h5f.OBJ_GROUP | h5f.OBJ_DATASET | h5f.OBJ_ATTR


class Fork:
    """A fork of the worker that does what `storage/child.py` does, for one file after another."""

    def __init__(self):
        self.orders, theirs = socket.socketpair()
        self._left = FILES
        self.pid = os.fork()
        if not self.pid:
            with contextlib.suppress(BaseException):
                self.orders.close()
                self._serve(theirs)
            os._exit(0)
        theirs.close()

    def _serve(self, orders):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, 0)
        gc.freeze()                                     # the worker's objects are not scanned each time
        for _ in range(FILES):
            arguments, (stdin, stdout), *_ = socket.recv_fds(orders, 2 ** 16, 2)
            child.Child.limit(0, 0)
            with contextlib.suppress(BrokenPipeError), open(stdin, 'rb') as source, open(stdout, 'wb') as sink:
                child.main(*json.loads(arguments), stdin=source, stdout=sink)
            gc.collect()
            # HDF5 would return an object left open in place of the next file, which has the same inode.
            if h5f.get_obj_count(h5f.OBJ_ALL, _OF_FILES):
                break
            orders.send(b'.')

    def end(self):
        """Waits until the file is read or the fork is dead; returns its exit status."""
        with contextlib.suppress(ConnectionResetError):
            if self.orders.recv(1):
                self._left -= 1
                if self._left:
                    idle.append(self)
                    return 0
                os.kill(self.pid, signal.SIGKILL)
        self.orders.close()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status not in (0, -signal.SIGKILL):
            crashes[signal.Signals(-status).name] += 1
        return status


class ForkedChild:
    """Replaces the process of `children.start` by a fork for several files, which takes a hundredth of the time. Its
    crashes are contained and no findings."""

    def __init__(self, arguments, environment):
        self._fork, self._status = idle.pop() if idle else Fork(), None
        theirs, ours = os.pipe()
        result, out = os.pipe()
        socket.send_fds(self._fork.orders, [json.dumps(arguments).encode()], [theirs, out])
        os.close(theirs)
        os.close(out)
        self.stdin, self.stdout = open(ours, 'wb'), open(result, 'rb')  # noqa: SIM115 (closed by the caller)

    def kill(self):
        if self._status is None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
            self.stdout.close()
            # Without its pipes it usually ends soon.
            if not select.select([self._fork.orders], [], [], PATIENCE)[0]:
                os.kill(self._fork.pid, signal.SIGKILL)

    def wait(self):
        if self._status is None:
            self._status = self._fork.end()
        return self._status


def work(seed, keep):
    """The worker: reads orders `[reader, first, last]` and reports what it does, all as lines of JSON."""
    from fuzz_readers import readers
    orders, answers = sys.stdin, os.fdopen(os.dup(1), 'w')
    sys.stdout = io.StringIO()                          # training prints a table
    children.start = ForkedChild
    with tempfile.TemporaryDirectory(dir='/dev/shm' if os.path.isdir('/dev/shm') else None) as folder:
        known = readers(folder)
        addresses = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (addresses + ADDRESSES, resource.RLIM_INFINITY))

        def say(*answer):
            answers.write(json.dumps(answer) + '\n')
            answers.flush()

        say('shares', {name: reader.share for name, reader in known.items()})
        for order in orders:
            name, first, last = json.loads(order)
            for number in range(first, last):
                say('reads', number)
                say('did', *_try(pathlib.Path(folder) / f'input{known[name].suffix}', known[name],
                                 make(name, known[name], seed, number)))
            say('done', dict(crashes))
            crashes.clear()


def _try(path, reader, data):
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)       # its signal ends the process
    outcome = 'read', ''
    try:
        reader.read(path)
    except (InputError, ImageError) as e:
        message = str(e)
        plain = message and not any(c < ' ' or '\x7f' <= c < '\xa0' or c in '\u2028\u2029' for c in message)
        outcome = ('refused', '') if plain else ('found', repr(message)[:200])
    except BaseException as e:
        outcome = 'found', f'{type(e).__name__}: {str(e)[:200]} ' + ' < '.join(
            f'{frame.name}:{frame.lineno}' for frame in reversed(traceback.extract_tb(e.__traceback__)[-6:]))
    signal.setitimer(signal.ITIMER_PROF, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return outcome if grown < MEMORY else ('found', f'{grown / 2 ** 20:.0f} MiB of memory')


class Worker:
    """Restarts the worker when it has died."""

    def __init__(self, seed):
        self._seed, self._process = seed, None
        self.shares = None

    def start(self):
        self._process = subprocess.Popen([sys.executable, __file__, '--worker', '--seed', str(self._seed)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.shares = json.loads(self._process.stdout.readline())[1]

    def read(self, name, first, last):
        """Yields `(number, outcome, what)` for each input of a range, and `(None, 'contained', how often)`."""
        while first < last:
            if self._process is None:
                self.start()
            self._process.stdin.write(json.dumps([name, first, last]) + '\n')
            self._process.stdin.flush()
            for line in self._process.stdout:
                kind, *rest = json.loads(line)
                if kind == 'reads':
                    first = rest[0] + 1
                elif kind == 'did':
                    yield first - 1, *rest
                else:
                    yield None, 'contained', sum(rest[0].values())
                    return
            status = self._process.wait()
            self._process = None
            reason = 'a hang' if -status == signal.SIGPROF else f'a crash ({status})'
            yield first - 1, 'found', reason

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--inputs', type=int, default=10000, help='of all readers together (%(default)s)')
    parser.add_argument('--reader', action='append', help='of this one alone; may be given several times')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0, help='number of the first input of each reader')
    parser.add_argument('--keep', type=pathlib.Path, help='a folder for the inputs that found something')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return work(args.seed, args.keep)
    worker = Worker(args.seed)
    worker.start()
    shares = {name: share for name, share in worker.shares.items() if args.reader is None or name in args.reader}
    total, findings = collections.Counter(), collections.defaultdict(list)
    print(f'{"reader":<18}{"inputs":>8}{"read":>8}{"refused":>9}{"contained":>11}{"found":>7}{"seconds":>9}')
    for name, share in shares.items():
        counts, begun = collections.Counter(), time.monotonic()
        inputs_of_it = round(args.inputs * share / sum(shares.values()))
        for number, outcome, what in worker.read(name, args.first, args.first + inputs_of_it):
            counts[outcome] += 1 if number is not None else what
            if outcome == 'found':
                findings[name, what].append(number)
        counts['inputs'] = inputs_of_it
        total += counts
        _print_row(name, counts, time.monotonic() - begun)
    worker.close()
    _print_row('all', total, 0)
    for (name, what), numbers in sorted(findings.items()):
        print(f'{name}: {what}; {len(numbers)} times, first at {numbers[0]}')
    if args.keep and findings:
        _keep(args, findings)
    return 1 if findings else 0


def _print_row(name, counts, seconds):
    print(f'{name:<18}' + ''.join(f'{counts[what]:>{width}}' for what, width in (
        ('inputs', 8), ('read', 8), ('refused', 9), ('contained', 11), ('found', 7))) + f'{seconds:>9.1f}', flush=True)


def _keep(args, findings):
    from fuzz_readers import readers
    args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        known = readers(folder)
        for name, what in findings:
            number = findings[name, what][0]
            (args.keep / f'{name} {number}{known[name].suffix}').write_bytes(make(name, known[name], args.seed, number))


if __name__ == '__main__':
    sys.exit(main())
