"""The loss on the validation captions, every token weighing the same."""
import itertools
import math
import sys

import chainer
import numpy as np
from chainer.training import extensions

from chainer_caption.parallel import Processes


def perplexity(nats):
    """exp(nats per token); infinite where that is more than a float holds."""
    return math.exp(nats) if nats < math.log(sys.float_info.max) else math.inf


def token_means(model, batches, processes=None):
    """What a model makes of captions, every token weighing the same, whatever minibatch it is in.

    Args:
        model (ShowAndTell): The model, on its device.
        batches (iterable of tuple): Its arguments for each minibatch, as `PackCaptions` makes them; at least one in one
            of the processes.
        processes (Processes or None): Those that share the minibatches; None has this one have them all.

    Returns:
        dict: The means over tokens of `loss` (nats) and `accuracy`, and the `perplexity`; floats.
    """
    processes = processes or Processes()
    sums, tokens = dict.fromkeys(('loss', 'accuracy'), 0.0), 0
    reporter = chainer.Reporter()
    reporter.add_observer('', model)
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        for batch in batches:
            observed = {}
            with reporter.scope(observed):
                model(*batch)
            count = len(batch[1])
            tokens += count
            for name in sums:
                # Added up where they are: a GPU is not waited for until the end.
                sums[name] = sums[name] + observed['/' + name].array.astype(np.float64) * count
    *totals, tokens = processes.sum([*map(float, sums.values()), tokens])
    means = {name: float(total / tokens) for name, total in zip(sums, totals, strict=True)}
    return {**means, 'perplexity': perplexity(means['loss'])}


class TokenEvaluator(extensions.Evaluator):
    """Chainer's Evaluator with every token weighing the same, by `token_means`.

    Reports `validation/main/loss` (nats per token), `…/perplexity` and `…/accuracy`.

    Args:
        *args: As for Chainer's.
        processes (Processes): Those that share the minibatches.
        **kwargs: As for Chainer's.
    """
    trigger = 1, 'epoch'

    def __init__(self, *args, processes, **kwargs):
        super().__init__(*args, **kwargs)
        self._processes = processes

    def evaluate(self):
        iterator = self.get_iterator('main')
        iterator.reset()
        mine = itertools.islice(iterator, self._processes.rank, None, self._processes.size)
        means = token_means(self.get_target('main'), (self.converter(batch, self.device) for batch in mine),
                            self._processes)
        # The trainer has named this extension: "validation".
        return {f'{self.name}/main/{name}': mean for name, mean in means.items()}
