"""For inference on the CPU: fully connected layers."""
import numpy as np

from chainer_caption.functions.matmul import matmul


def linear_relu(x, W, b):
    """A fully connected layer and its ReLU: max(x W^T + b, 0). Wrap calls in `one_blas_thread`.

    Args:
        x (numpy.ndarray): (N, C), float32.
        W (numpy.ndarray): Weights as `L.Linear` has them, (K, C), float32.
        b (numpy.ndarray): Biases, (K,), float32.

    Returns:
        numpy.ndarray: (N, K), float32.
    """
    y = matmul(x, W.T)
    y += b
    return np.maximum(y, 0, out=y)
