"""Dropout whose mask is a function of a key and a position: it is not stored and can be repeated anywhere.

A hash of an element's position, under a key made from the seed and the number of the update, decides whether it is kept
(a counter-based generator; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the mixing is
MurmurHash3's finalizer, twice, with a word of the key before each). The CPU and every GPU drop the same elements, and a
resumed run needs no state. Dropout: Srivastava et al., JMLR 15 (2014); inverted, as Chainer's."""
import functools
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import HASH32_CUDA, compiled, hash32, parallel_for


def mask_key(seed: int, update: int, site: int) -> np.ndarray:
    """The key of one dropout mask, (2,) uint32: of a run's seed, the update's number, and the mask's in the model."""
    return np.random.SeedSequence((seed, update, site)).generate_state(2)


def dropout(x: Any, ratio: float, key: Any) -> chainer.Variable:
    """Drops elements of `x`, float32 of any shape, each with the probability `ratio`, in [0, 1), and scales the others
    by 1 / (1 - ratio); in training only (`chainer.config.train`). `key` is two uint32 words, from `mask_key`."""
    if not chainer.config.train or ratio == 0:
        return chainer.as_variable(x)
    return _Dropout(ratio, key).apply((x,))[0]


def mask_arguments(ratio: float, key: Any) -> tuple[Any, Any, np.uint32, np.float32]:
    """`(key0, key1, threshold, scale)` as the loops and kernels take them: an element is kept where its hash reaches
    the threshold."""
    return key[0], key[1], np.uint32(min(round(ratio * 2 ** 32), 2 ** 32 - 1)), np.float32(1 / (1 - ratio))


class _Dropout(chainer.FunctionNode):
    def __init__(self, ratio, key):
        self.ratio, self.key = ratio, key

    def forward(self, inputs):
        return apply_mask(inputs[0], self.ratio, self.key),

    def backward(self, indexes, grad_outputs):
        return _Dropout(self.ratio, self.key).apply(grad_outputs)


def apply_mask(x: Any, ratio: float, key: Any) -> Any:
    """The masked and scaled copy of an array, NumPy or CuPy."""
    arguments = mask_arguments(ratio, key)
    if isinstance(x, cuda.ndarray):
        return _mask_kernel()(x, *arguments)
    x = np.ascontiguousarray(x)
    y = np.empty_like(x)
    parallel_for(_mask, x.size, x.reshape(-1), y.reshape(-1), *arguments)
    return y


@compiled
def _mask(x, y, key0, key1, threshold, scale, start, stop):
    x, y = x[start:stop], y[start:stop]
    first = np.uint32(start)
    for i in range(len(x)):
        kept = hash32(np.uint32(first + np.uint32(i)), key0, key1) >= threshold
        y[i] = x[i] * scale if kept else np.float32(0)


_mask_kernel = functools.partial(
    cuda.elementwise, 'T x, uint32 key0, uint32 key1, uint32 threshold, float32 scale', 'T y',
    'y = hash32((unsigned int)i, key0, key1) >= threshold ? x * (T)scale : (T)0',
    'caption_dropout', preamble=HASH32_CUDA)
