"""Runs an encoder on a GPU in micro-batches that fit into its memory. Without cuDNN, which CuPy no longer has, Chainer
unfolds the inputs of each convolution into a matrix (im2col) and transposes its output: a quarter of a gigabyte for
each image in VGG's second layer."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainer_caption.functions.memory import enough_memory, free_bytes, peak_bytes

# The share of the free memory that a micro-batch may take; blocks of many sizes do not fit without gaps.
_SHARE = 0.8


class MicroBatches:
    """Computes a batch in micro-batches; one that does not fit after all is halved.

    Args:
        compute: Takes images on the GPU, (n, 3, S, S) float32, and returns their features, (n, D).
        device: The GPU, which must be the current device in calls."""

    def __init__(self, compute: Callable[[Any], Any], device: Any) -> None:
        self._compute, self._device = compute, device
        self._size: int | None = None                   # images; measured with the first one

    def __call__(self, batch: np.ndarray) -> Any:
        """Computes the features, (N, D) float32 on the GPU, of images on the host, (N, 3, S, S) float32; InputError
        where the memory is too small for a single image."""
        if self._size is None:
            needed = peak_bytes(self._device, lambda: self._try(batch[:1]))
            self._size = max(1, int(_SHARE * free_bytes(self._device)) // max(1, needed))
        made: list = []
        while len(batch):
            images = batch[:self._size]
            features = self._try(images)
            if features is None:
                self._size = len(images) // 2
            else:
                made.append(features)
                batch = batch[len(images):]
        return self._device.xp.concatenate(made)

    def _try(self, images: np.ndarray) -> Any:
        if len(images) == 1:
            with enough_memory(self._device):
                return self._compute(self._device.send(images))
        try:
            return self._compute(self._device.send(images))
        except MemoryError:
            return None                                 # the exception holds the arrays until it is gone
