"""For inference on the CPU: fully connected layers, and matrix products that do not fight for the cores."""
import contextlib
import functools
import threading

import numpy as np
import threadpoolctl

from chainer_caption.functions.compiled import in_threads

_UNITS = 512                                            # that one thread computes at a time

_alone = threading.Lock()


@contextlib.contextmanager
def one_blas_thread():
    """Within it, matrix products take one thread each, so that the threads that call them do not fight for cores.

    The setting is BLAS's, for the whole process; callers wait for each other, and find it as it was afterwards.
    """
    with _alone, _blas().limit(limits=1, user_api='blas'):
        yield


@functools.lru_cache(maxsize=1)
def _blas():
    return threadpoolctl.ThreadpoolController()


def linear_relu(x, W, b):
    """A fully connected layer and its ReLU: max(x W^T + b, 0). Wrap calls in `one_blas_thread`.

    Args:
        x (numpy.ndarray): (N, C), float32.
        W (numpy.ndarray): Weights as `L.Linear` has them, (K, C), float32.
        b (numpy.ndarray): Biases, (K,), float32.

    Returns:
        numpy.ndarray: (N, K), float32. It does not depend on the number of threads.
    """
    y = np.empty((len(x), len(W)), np.float32)

    def compute(start, stop):
        for first in range(start * _UNITS, min(stop * _UNITS, len(W)), _UNITS):
            units = slice(first, first + _UNITS)
            np.matmul(x, W[units].T, out=y[:, units])

    in_threads(compute, -(-len(W) // _UNITS))
    y += b
    return np.maximum(y, 0, out=y)
