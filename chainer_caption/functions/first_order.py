"""Gradients that have no gradient themselves."""
import functools
from collections.abc import Callable

import chainer


def first_order(backward: Callable) -> Callable:
    """Decorator of a `FunctionNode.backward` that takes the indexes and the arrays of the output gradients, and returns
    an array or None for each input.

    Raises:
        NotImplementedError: `enable_double_backprop` is set; without this check Chainer would return None.
    """
    @functools.wraps(backward)
    def wrapped(self, indexes, grad_outputs):
        if chainer.config.enable_backprop:
            raise NotImplementedError(f'{type(self).__name__.lstrip("_")}: the gradient of its gradient is not '
                                      'implemented; do not set enable_double_backprop')
        gradients = backward(self, indexes, *(None if g is None else g.array for g in grad_outputs))
        return tuple(None if gradients[i] is None else chainer.as_variable(gradients[i]) for i in indexes)
    return wrapped
