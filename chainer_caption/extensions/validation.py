"""The loss on the validation captions, every token weighing the same."""
import math
import sys

import chainer
import numpy as np
from chainer.training import extensions


def perplexity(nats):
    """exp(nats per token); infinite where that is more than a float holds."""
    return math.exp(nats) if nats < math.log(sys.float_info.max) else math.inf


def token_means(model, batches):
    """What a model makes of captions, every token weighing the same, whatever minibatch it is in.

    Args:
        model (ShowAndTell): The model, on its device.
        batches (iterable of tuple): Its arguments for each minibatch, as `PackCaptions` makes them; at least one.

    Returns:
        dict: The means over tokens of `loss` (nats) and `accuracy`, and the `perplexity`; floats.
    """
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
    means = {name: float(total) / tokens for name, total in sums.items()}
    return {**means, 'perplexity': perplexity(means['loss'])}


class TokenEvaluator(extensions.Evaluator):
    """Chainer's Evaluator with every token weighing the same, by `token_means`.

    Reports `validation/main/loss` (nats per token), `…/perplexity` and `…/accuracy`.
    """
    trigger = 1, 'epoch'

    def evaluate(self):
        iterator = self.get_iterator('main')
        iterator.reset()
        means = token_means(self.get_target('main'), (self.converter(batch, self.device) for batch in iterator))
        # The trainer has named this extension: "validation".
        return {f'{self.name}/main/{name}': mean for name, mean in means.items()}
