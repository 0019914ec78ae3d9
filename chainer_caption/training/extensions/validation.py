"""The loss on the validation captions, every token weighing the same."""
import contextlib
import itertools

from chainer.training import extensions

from chainer_caption.evaluation.perplexity import token_means


class TokenEvaluator(extensions.Evaluator):
    """Chainer's Evaluator with every token weighing the same, by `token_means`.

    Reports `validation/main/loss` (nats per token), `…/perplexity` and `…/accuracy`.

    Args:
        *args: As for Chainer's.
        processes (Processes): Those that share the minibatches.
        weights (callable): Gives a context manager within which the model has the weights that are validated.
        **kwargs: As for Chainer's.
    """
    trigger = 1, 'epoch'

    def __init__(self, *args, processes, weights=contextlib.nullcontext, **kwargs):
        super().__init__(*args, **kwargs)
        self._processes = processes
        self._weights = weights

    def evaluate(self):
        iterator = self.get_iterator('main')
        iterator.reset()
        mine = itertools.islice(iterator, self._processes.rank, None, self._processes.size)
        with self._weights():
            means = token_means(self.get_target('main'), (self.converter(batch, self.device) for batch in mine),
                                self._processes)
        # The trainer has named this extension: "validation".
        return {f'{self.name}/main/{name}': mean for name, mean in means.items()}
