"""Ctrl-C and SIGTERM as a request to stop: the first is granted after the current update, the second kills."""
import signal
import threading
from types import FrameType
from typing import Any


class Stopping:
    """A context manager that catches these signals within its block; calling it tells whether one has arrived.

    Signals that were ignored before, as under nohup, stay ignored. Python allows signal handlers in the main thread
    only; in another one it catches none."""

    def __init__(self) -> None:
        self.status = 0                                 #: 128 plus the signal's number once a call has returned True
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Stopping':
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        for caught in self._before:
            signal.signal(caught, signal.SIG_DFL)

    def __call__(self) -> bool:
        if self._received is not None:
            self.status = 128 + self._received
        return self._received is not None

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
