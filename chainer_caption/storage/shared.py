"""A context of the whole process that several threads are in at the same time."""
import contextlib
import threading


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
