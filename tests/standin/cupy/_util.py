"""Functions that are called once for each of their arguments."""
import functools

from ._device import current


class PerformanceWarning(RuntimeWarning):
    """What CuPy warns of where something is slow."""


_memos = []


def memoize(for_each_device=False):
    """A decorator: a function's result is kept for each of its arguments and, where wanted, for each device."""
    def decorate(function):
        kept = functools.cache(lambda device, args, kwargs: function(*args, **dict(kwargs)))
        _memos.append(kept)

        @functools.wraps(function)
        def call(*args, **kwargs):
            return kept(current() if for_each_device else None, args, tuple(sorted(kwargs.items())))
        return call
    return decorate


def clear_memo():
    for kept in _memos:
        kept.cache_clear()
