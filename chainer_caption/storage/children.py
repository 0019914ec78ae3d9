"""Child processes with limits that read untrusted files by C code, which damaged bytes may crash (`child.py`)."""
import contextlib
import os
import pathlib
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chainer_caption.errors import InputError
from chainer_caption.storage.files import Path

_CHILD = pathlib.Path(__file__).with_name('child.py')
_FRAME = 2 ** 30                # bytes of a frame; a row of a matrix may be longer than the child's blocks
_PIPE = 2 ** 20                 # bytes that the child may write ahead; the most that Linux gives to any user


class Reading:
    """A child that reads the file `path`, which is of a `kind`, such as 'MATLAB file nor HDF5', in messages."""

    def __init__(self, process: Any, path: Path, kind: str) -> None:
        self._process, self._path, self._kind = process, path, kind

    def frame(self) -> bytes:
        """The next frame. Raises InputError if the child refuses the file, crashes, or exceeds its limits."""
        process, head = self._process, self._process.stdout.read(8)
        length = struct.unpack('<q', head)[0] if len(head) == 8 else 0
        data = process.stdout.read(min(abs(length), _FRAME))
        if length < 0:
            raise InputError(f'{self._path}: {data.decode("utf-8", "replace")}')
        if not length or len(data) < length:
            status = process.wait()
            slow = -status == getattr(signal, 'SIGXCPU', None)
            reason = 'takes too long to read' if slow else f'makes its reader fail ({status})'
            raise InputError(f'{self._path}: not a sound {self._kind}: {reason}')
        return data

    def go_on(self, last: bool = False) -> None:
        """Lets the child go on, for the `last` time or not."""
        with contextlib.suppress(BrokenPipeError):      # the next frame finds out why it has ended
            if not self._process.stdin.closed:
                self._process.stdin.write(b'\n')
                self._process.stdin.flush()
                if last:
                    self._process.stdin.close()


@contextlib.contextmanager
def reading(path: Path, kind: str, reader: Path, *arguments: str) -> Iterator[Reading]:
    """Starts a child that reads a file by the module of the path `reader`, called with the absolute path of the file
    and the arguments. It is killed afterwards."""
    # HDF5 would load any filter that a file names from the plugin folder.
    environment = {**os.environ, 'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1', 'HDF5_PLUGIN_PRELOAD': '::'}
    child = start([os.fspath(reader), os.path.abspath(path), *arguments], environment)
    try:
        yield Reading(child, path, kind)
    finally:
        child.kill()
        child.wait()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()


def start(arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
    child: Any = subprocess.Popen([sys.executable, os.fspath(_CHILD), *arguments], env=environment,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with contextlib.suppress(ImportError, AttributeError, OSError):     # Linux alone has it; elsewhere it is slower
        import fcntl
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _PIPE)
    return child
