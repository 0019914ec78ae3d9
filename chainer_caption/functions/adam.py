"""Chainer's Adam with its CPU update in one pass over memory.

`chainer.optimizers.Adam` (Kingma and Ba 2015) goes over all arrays about a dozen times on the CPU. The arithmetic here
is the same, element by element; on a GPU Chainer's own kernel, one pass already, is used as it is."""
import contextlib
from collections.abc import Iterator
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import compiled, parallel_for


class _AdamRule(chainer.optimizers.adam.AdamRule):
    def __init__(self, hyperparam, average):
        super().__init__(hyperparam)
        self._average = average

    def init_state(self, param):
        super().init_state(param)
        if self._average is not None:
            self.state['average'] = param.array.copy()

    def update_core(self, param):
        super().update_core(param)
        if self._average is not None:
            _follow(self.state['average'], param.array, np.float32(1 / min(self.t, self._average)))

    def update_core_cpu(self, param):
        hp = self.hyperparam
        arrays = param.array, param.grad, self.state['m'], self.state['v']
        if hp.amsgrad or hp.adabound or any(
                a is None or a.dtype != np.float32 or not a.flags.c_contiguous for a in arrays):
            super().update_core_cpu(param)
            return
        numbers = 1 - hp.beta1, 1 - hp.beta2, self.alpha_t, hp.eps, hp.eta, hp.weight_decay_rate
        parallel_for(_update, param.size, *(a.reshape(-1) for a in arrays), *map(np.float32, numbers))


class Adam(chainer.optimizers.Adam):
    """`chainer.optimizers.Adam`: the same arguments, hyperparameters, states and, to rounding, the same updates.

    Args:
        average: Keeps an average of the weights as well: the mean of the first so many updates, then an exponential
            moving average in which a new one has the weight 1 / average. It is a state of the parameters, so snapshots
            contain it. None keeps none.
    """

    def __init__(self, *args: Any, average: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._average = average

    def create_update_rule(self) -> Any:
        return _AdamRule(self.hyperparam, self._average)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the target has the averaged weights, if there are any. They are exchanged, not copied; the
        target must not be updated within it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self):
        for param in self.target.params():
            state = param.update_rule.state or {}
            if 'average' in state:
                param.array, state['average'] = state['average'], param.array

    def serialize(self, serializer: Any) -> None:
        super().serialize(serializer)
        # The compiled update takes the arrays for what they should be.
        for name, param in self.target.namedparams():
            for key, state in (param.update_rule.state or {}).items():
                if getattr(state, 'shape', None) != param.shape or state.dtype != param.dtype:
                    raise ValueError(f'the state {key} of {name} does not fit')


def _follow(average, weights, share):
    if isinstance(weights, cuda.ndarray):
        cuda.elementwise('T weight, T share', 'T average', 'average += share * (weight - average)',
                         'caption_follow')(weights, share, average)
    elif average.flags.c_contiguous and weights.flags.c_contiguous and weights.dtype == np.float32:
        parallel_for(_follow_loop, weights.size, average.reshape(-1), weights.reshape(-1), share)
    else:
        average += share * (weights - average)


@compiled
def _follow_loop(average, weights, share, start, stop):
    average, weights = average[start:stop], weights[start:stop]
    for i in range(len(average)):
        average[i] += share * (weights[i] - average[i])


@compiled
def _update(param, grad, m, v, one_minus_beta1, one_minus_beta2, alpha_t, eps, eta, decay, start, stop):
    # Slices from 0 on: a loop whose index might be negative is not vectorised.
    param, grad, m, v = param[start:stop], grad[start:stop], m[start:stop], v[start:stop]
    for i in range(len(param)):
        g = grad[i]
        m[i] = first = m[i] + one_minus_beta1 * (g - m[i])
        v[i] = second = v[i] + one_minus_beta2 * (g * g - v[i])
        param[i] -= eta * (alpha_t * first / (np.sqrt(second) + eps) + decay * param[i])
