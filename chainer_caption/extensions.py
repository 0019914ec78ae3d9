"""Trainer extensions of our own, beside Chainer's."""
import math
import sys

import chainer
import numpy as np
from chainer.training import extensions

MONITORED = 'validation/main/loss'


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


class KeepBest(chainer.training.Extension):
    """Keeps the weights of the epoch with the least validation loss in the model directory; of the last epoch where
    nothing is validated.

    Attributes:
        epochs_since (int): Epochs since the best.
    """
    trigger = 1, 'epoch'
    # After the evaluator has reported, before the snapshot is taken.
    priority = chainer.training.PRIORITY_EDITOR

    def __init__(self, current, output):
        self._bundle = current
        self._output = output
        self._best = math.inf
        self.epochs_since = 0

    def __call__(self, trainer):
        figure = trainer.observation.get(MONITORED)
        if figure is not None and not figure < self._best:
            self.epochs_since += 1
            return
        self.epochs_since = 0
        if figure is not None:
            self._best = float(figure)
        self._bundle.save_weights(self._output)

    def serialize(self, serializer):
        self._best = float(serializer('best', self._best))
        self.epochs_since = int(serializer('epochs_since', self.epochs_since))


class Table:
    """Chainer's PrintReport clears the terminal below its table, where the progress bar is; a file gets the table
    alone."""

    def __init__(self, out):
        self._out = out

    def write(self, text):
        self._out.write(text if self._out.isatty() else text.replace('\033[J', ''))

    def flush(self):
        self._out.flush()
