"""Ctrl-C and SIGTERM as a wish to stop in good order: the first is granted after the update, the second kills."""
import signal
import threading


class Stopping:
    """A context manager that takes these signals while its block runs; calling it says whether one has come.

    Signals that were ignored before, as under nohup, still are. In a thread other than the main one, where Python lets
    nobody take signals, it takes none.

    Attributes:
        status (int): The exit status that tells of the signal, 128 plus its number, once somebody has been told of it;
            0 until then.
    """

    def __init__(self):
        self.status = 0
        self._came = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def _take(self, number, frame):
        self._came = number
        for taken in self._before:
            signal.signal(taken, signal.SIG_DFL)

    def __call__(self):
        if self._came is not None:
            self.status = 128 + self._came
        return self._came is not None

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
