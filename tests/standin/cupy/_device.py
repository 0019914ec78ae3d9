"""Devices and their streams."""
import os
import threading

from .standin import count_launch, synchronize

DEVICES = int(os.environ.get('STANDIN_DEVICES', '2'))

_thread = threading.local()


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""


def current():
    """The number of this thread's device."""
    return getattr(_thread, 'device', 0)


def use(number):
    if not 0 <= number < DEVICES:
        raise CUDARuntimeError('cudaErrorInvalidDevice: invalid device ordinal')
    _thread.device = number


class Device:
    """A device; as a context manager it makes it the current one of this thread."""

    def __init__(self, device=None):
        self.id = current() if device is None else int(device)
        self._before = []

    def __int__(self):
        return self.id

    def __enter__(self):
        before = current()
        use(self.id)
        self._before.append(before)
        return self

    def __exit__(self, *_):
        use(self._before.pop())

    def use(self):
        use(self.id)

    def synchronize(self):
        synchronize('Device.synchronize')

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f'<CUDA Device {self.id}>'


class Stream:
    """A queue of work. There is one; it is always empty."""

    ptr = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        synchronize('Stream.synchronize')


Stream.null = Stream()


class Event:
    """A mark in a queue; the queue is empty, so it has been passed."""

    def record(self, stream=None):
        pass

    def synchronize(self):
        synchronize('Event.synchronize')


def launch(name, *arrays, times=1):
    """Called for each kernel: counts it, and checks that all arrays are on the current device."""
    for array in arrays:
        if array.device.id != current():
            raise ValueError(f'Array device must be same as the current device: array device = {array.device.id} '
                             f'while current = {current()} (in {name}).')
    count_launch(name, times)
