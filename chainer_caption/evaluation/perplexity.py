"""Loss and perplexity of a model on reference captions; every token has the same weight."""
from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import chainer
import numpy as np

from chainer_caption.functions.matmul import one_blas_thread
from chainer_caption.parallel import Processes


def perplexity(nats: float) -> float:
    """exp(nats per token); infinite if that is more than a float holds."""
    return math.exp(nats) if nats < math.log(sys.float_info.max) else math.inf


def token_means(model: Any, batches: Iterable[tuple[Any, ...]], processes: Processes | None = None) -> dict[str, float]:
    """Computes the means over tokens of `loss` (nats) and `accuracy`, and the `perplexity`, of a model on captions.

    Args:
        model: The model, on its device.
        batches: Its arguments for each minibatch, as `PackCaptions` makes them; at least one in one of the processes.
        processes: Those that share the minibatches; None for this one alone.
    """
    processes = processes or Processes()
    # Tokens of the minibatches in which each is reported; `accuracy` need not be.
    sums, counts = (dict.fromkeys(('loss', 'accuracy'), 0.0) for _ in range(2))
    reporter = chainer.Reporter()
    reporter.add_observer('', model)
    with chainer.using_config('train', False), chainer.no_backprop_mode():
        for batch in batches:
            observed: dict = {}
            with reporter.scope(observed):
                model(*batch)
            for name in sums:
                if '/' + name in observed:
                    counts[name] += len(batch[1])
                    # Added up where they are: a GPU is not waited for until the end.
                    value = chainer.as_array(observed['/' + name])
                    sums[name] += (value.astype(np.float64) if hasattr(value, 'astype') else value) * len(batch[1])
    totals = processes.sum([*map(float, sums.values()), *counts.values()])
    means = {name: float(total / count) for name, total, count in zip(sums, totals[:2], totals[2:], strict=True)
             if count or name == 'loss'}
    return {**means, 'perplexity': perplexity(means['loss'])}


def stepped_perplexity(decoder: Any, batches: Iterable[tuple[Any, ...]]) -> float:
    """exp(nats per token) of a decoder without a loss of its own, an ensemble's, computed word by word.

    `batches` are as for `token_means`, on the CPU.
    """
    xp, nats, tokens = decoder.device.xp, 0.0, 0
    with chainer.using_device(decoder.device), one_blas_thread():
        for features, words, targets, batch_sizes in batches:
            state, start = decoder.start(decoder.device.send(features)), 0
            for size in batch_sizes:
                now = slice(start, start := start + size)
                state, scores = decoder.step(state, np.arange(size), words[now])
                scores += decoder.bias
                scores -= scores.max(axis=1, keepdims=True)
                own = xp.take_along_axis(scores, xp.asarray(targets[now, None], np.int64), axis=1)[:, 0]
                # Added up where they are: a GPU is not waited for until the end.
                nats += (xp.log(xp.exp(scores).sum(axis=1)) - own).sum(dtype=np.float64)
            tokens += len(targets)
    return perplexity(float(nats) / tokens)
