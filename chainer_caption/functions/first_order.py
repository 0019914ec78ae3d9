"""The one way in which function nodes of this package compute gradients that have no gradient themselves."""
from __future__ import annotations

import functools
from collections.abc import Callable

import chainer


def first_order(backward: Callable) -> Callable:
    """Decorator of `FunctionNode.backward` for gradients that are computed on plain arrays.

    The decorated method takes the indexes and the arrays of the output gradients, and returns an array or None for each
    input.

    Raises:
        NotImplementedError: The gradient of the gradient is asked for (`enable_double_backprop`). Without this check
            Chainer would return None for it.
    """
    @functools.wraps(backward)
    def wrapped(self, indexes, grad_outputs):
        if chainer.config.enable_backprop:
            raise NotImplementedError(f'{type(self).__name__.lstrip("_")}: the gradient of its gradient is not '
                                      'implemented; do not set enable_double_backprop')
        gradients = backward(self, indexes, *(None if g is None else g.array for g in grad_outputs))
        return tuple(None if gradients[i] is None else chainer.as_variable(gradients[i]) for i in indexes)
    return wrapped
