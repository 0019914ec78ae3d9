"""Chainer's Adam with its CPU update in one pass over memory.

`chainer.optimizers.Adam` (Kingma and Ba 2015) goes over the parameter, its gradient and both moments about a dozen
times on the CPU, and a captioner's millions of parameters fit no cache. The arithmetic here is the same, element by
element; on a GPU Chainer's own kernel, one pass already, is used as it is.
"""
import chainer
import numpy as np

from chainer_caption.functions.compiled import compiled, in_threads


class _AdamRule(chainer.optimizers.adam.AdamRule):

    def update_core_cpu(self, param):
        hp = self.hyperparam
        m, v = self.state['m'], self.state['v']
        arrays = param.array, param.grad, m, v
        plain = not (hp.amsgrad or hp.adabound)
        if not plain or any(a is None or a.dtype != np.float32 or not a.flags.c_contiguous for a in arrays):
            super().update_core_cpu(param)
            return
        in_threads(_update, param.size, *(a.reshape(-1) for a in arrays), np.float32(1 - hp.beta1),
                   np.float32(1 - hp.beta2), np.float32(self.alpha_t), np.float32(hp.eps), np.float32(hp.eta),
                   np.float32(hp.weight_decay_rate))


class Adam(chainer.optimizers.Adam):
    """`chainer.optimizers.Adam`: the same arguments, hyperparameters, states and, to rounding, the same updates."""

    def create_update_rule(self):
        return _AdamRule(self.hyperparam)

    def serialize(self, serializer):
        super().serialize(serializer)
        # The compiled update takes the arrays for what they should be.
        for name, param in self.target.namedparams():
            for key, state in (param.update_rule.state or {}).items():
                if getattr(state, 'shape', None) != param.shape or state.dtype != param.dtype:
                    raise ValueError(f'the state {key} of {name} does not fit')


@compiled
def _update(param, grad, m, v, one_minus_beta1, one_minus_beta2, alpha_t, eps, eta, decay, start, stop):
    # Slices from 0 on: a loop whose index might be negative is not vectorised.
    param, grad, m, v = param[start:stop], grad[start:stop], m[start:stop], v[start:stop]
    for i in range(len(param)):
        g = grad[i]
        first = m[i] + one_minus_beta1 * (g - m[i])
        second = v[i] + one_minus_beta2 * (g * g - v[i])
        m[i] = first
        v[i] = second
        param[i] -= eta * (alpha_t * first / (np.sqrt(second) + eps) + decay * param[i])
