"""Program in which C code reads an untrusted file; `children.py` starts it: child.py READER.py ARGUMENT …

Readers in C trust what a file declares: damaged bytes can crash them, or make them take any amount of time and memory.
That happens in this process alone, which has limits and imports nothing of the package but the module READER.py, whose
`read(child, ARGUMENT, …)` does the work; its `KIND` completes "not a sound".

The process writes frames: a length as eight bytes, then as many bytes; a negative length is that of an error's text."""
import contextlib
import functools
import importlib.util
import os
import struct
import sys
from typing import Any

# Limits beyond what a reader asks for, in bytes and in seconds of processor time; and bytes that are read in a second.
_MEMORY, _SECONDS, _BYTES_A_SECOND = 2 ** 30, 60, 2 ** 23


class Refusal(Exception):
    """What the file holds is not read; the message says why."""


class Child:
    """What a reader gets: the connection to the process that started it, and the limits of its own."""

    Refusal = Refusal

    def __init__(self, stdin: Any, stdout: Any) -> None:
        self._stdin, self._stdout = stdin, stdout

    def send(self, data: Any, sign: int = 1) -> None:
        """Writes a frame."""
        view = memoryview(data).cast('B')
        self._stdout.write(struct.pack('<q', sign * len(view)))
        self._stdout.write(view)
        self._stdout.flush()

    def is_wanted(self) -> bool:
        """Waits until the other process wants more, or nothing more."""
        return bool(self._stdin.read(1))

    @staticmethod
    def limit(memory: int, data: int) -> bool:
        """Limits what this process may take from now on, beyond `memory` bytes and for reading `data` bytes. Returns
        whether memory is limited; Linux alone has what that needs."""
        try:
            import resource
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            _lower(resource, resource.RLIMIT_CPU, int(used + _SECONDS + data / _BYTES_A_SECOND))
            with open('/proc/self/statm', encoding='ascii') as f:
                taken = int(f.read().split()[0]) * resource.getpagesize()
            _lower(resource, resource.RLIMIT_AS, taken + _MEMORY + memory)
        except (ImportError, AttributeError, OSError, ValueError):
            return False
        return True


def main(reader: str, *arguments: str, stdin: Any, stdout: Any) -> None:
    child, kind = Child(stdin, stdout), 'file'
    try:
        module = load(reader)
        kind = module.KIND
        module.read(child, *arguments)
    except MemoryError:
        child.send(b'it takes more memory than its size can justify', -1)
    except Exception as e:                              # damage: whatever the reader's library raises
        reason = str(e) if isinstance(e, Refusal) else f'not a sound {kind}, or one cut short ({type(e).__name__}: {e})'
        child.send(reason[:1000].encode('utf-8', 'replace'), -1)


@functools.cache
def load(reader: str) -> Any:
    """The module of a path."""
    spec: Any = importlib.util.spec_from_file_location('_reader', reader)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _lower(resource: Any, kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == '__main__':
    # No imports from this folder: names of its modules may be those of others.
    sys.path[:] = [folder for folder in sys.path if folder != os.path.dirname(os.path.abspath(__file__))]
    with contextlib.suppress(ImportError):
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Child.limit(0, 0)
    main(*sys.argv[1:], stdin=sys.stdin.buffer, stdout=sys.stdout.buffer)
