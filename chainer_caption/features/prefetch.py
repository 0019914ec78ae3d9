"""Prepares images in threads while the encoder computes the batch before."""
from __future__ import annotations

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chainer
import numpy as np

from chainer_caption.features.images import ImageError

#: Images that the encoder computes together. Batches begin at fixed positions, so that an image is always computed in
#: the same batch and its features are the same to the last bit, wherever a run was resumed.
BATCH = 16

#: Pairs of a path and its prepared image, or the reason why it has none.
PreparedBatch = list[tuple[str, 'np.ndarray | ImageError']]


def prepared_batches(extractor: Any, paths: Iterable[Any],
                     sizes: Iterable[int] | None = None) -> Iterator[PreparedBatch]:
    """Prepares images by `extractor.prepare`, in batches of up to `BATCH` images, or of the `sizes`; two threads are up
    to one batch ahead."""
    def prepare(path: str) -> tuple[str, np.ndarray | ImageError]:
        try:
            return path, extractor.prepare(path)
        except ImageError as e:
            return path, e

    prepared = _prefetch(prepare, paths, BATCH)
    for size in itertools.repeat(BATCH) if sizes is None else sizes:
        if not (batch := list(itertools.islice(prepared, size))):
            return
        yield batch


def compute_batch(compute: Callable[[list[np.ndarray]], Any], batch: PreparedBatch, shape: Sequence[int]) -> np.ndarray:
    """Computes a batch of `prepared_batches`: (len(batch), *shape), float32, on the host; zeros where an image could
    not be prepared. `compute` takes a list of n prepared images and returns (n, *shape) on any device."""
    rows = np.zeros((len(batch), *shape), np.float32)
    good = {i: image for i, (_, image) in enumerate(batch) if isinstance(image, np.ndarray)}
    if good:
        rows[list(good)] = chainer.get_device('@numpy').send(compute(list(good.values())))
    return rows


def _prefetch(function: Callable[[str], Any], items: Iterable[str], window: int) -> Iterator[Any]:
    """`map(function, items)` in threads that stay at most `window` items ahead."""
    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix='images') as pool:
        pending: collections.deque = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
