"""The loss on the validation captions."""
from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

from chainer.training import extensions

from chainer_caption.evaluation.perplexity import token_means
from chainer_caption.parallel import Processes


class TokenEvaluator(extensions.Evaluator):
    """Chainer's Evaluator with the same weight for every token, by `token_means`.

    Reports `validation/main/loss` (nats per token), `…/perplexity` and, if the model reports it, `…/accuracy`.

    Args:
        *args: As for Chainer's.
        processes: Processes that share the minibatches.
        weights: Gives a context manager within which the model has the weights that are validated.
        **kwargs: As for Chainer's.
    """
    trigger = 1, 'epoch'

    def __init__(self, *args: Any, processes: Processes, weights: Callable[[], Any] = contextlib.nullcontext,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processes = processes
        self._weights = weights

    def evaluate(self) -> dict[str, float]:
        iterator = self.get_iterator('main')
        iterator.reset()
        mine = itertools.islice(iterator, self._processes.rank, None, self._processes.size)
        with self._weights():
            means = token_means(self.get_target('main'), (self.converter(batch, self.device) for batch in mine),
                                self._processes)
        # The trainer has named this extension: "validation".
        return {f'{self.name}/main/{name}': mean for name, mean in means.items()}
