"""A fully connected layer for training: `chainer.functions.linear` with the products of `functions.matmul`."""

import chainer

from chainer_caption.functions.buffers import column_sums
from chainer_caption.functions.compiled import Array
from chainer_caption.functions.first_order import first_order
from chainer_caption.functions.matmul import matmul, one_blas_thread


def linear(x: Array, W: Array, b: Array) -> chainer.Variable:
    """Returns x W^T + b, (N, O) float32, of x (N, I), W (O, I) and b (O,)."""
    return _Linear().apply((x, W, b))[0]


class _Linear(chainer.FunctionNode):
    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        self.retain_inputs((0, 1))
        x, W, b = inputs
        with one_blas_thread():
            y = matmul(x, W.T)
        y += b
        return y,

    @first_order
    def backward(self, indexes: tuple[int, ...], gy: Array) -> tuple[Array | None, ...]:
        x, W = (v.array for v in self.get_retained_inputs())
        with one_blas_thread():
            # The gradient of the features is the largest product of the three and seldom needed.
            return matmul(gy, W) if 0 in indexes else None, matmul(gy.T, x), column_sums(gy)
