"""A fully connected layer, for training: Chainer's, with the matrix products of `functions.products`."""
import chainer

from chainer_caption.functions.buffers import column_sums
from chainer_caption.functions.matmul import matmul, one_blas_thread


def linear(x, W, b):
    """`chainer.functions.linear`: x W^T + b.

    Args:
        x (chainer.Variable or array): (N, I) float32.
        W (chainer.Variable or array): (O, I) float32.
        b (chainer.Variable or array): (O,) float32.

    Returns:
        chainer.Variable: (N, O) float32.
    """
    return _Linear().apply((x, W, b))[0]


class _Linear(chainer.FunctionNode):

    def forward(self, inputs):
        self.retain_inputs((0, 1))
        x, W, b = inputs
        with one_blas_thread():
            y = matmul(x, W.T)
        y += b
        return y,

    def backward(self, indexes, grad_outputs):
        x, W = (v.array for v in self.get_retained_inputs())
        gy = grad_outputs[0].array
        with one_blas_thread():
            # The gradient of the features, the largest product of the three, is nobody's input.
            gradients = (matmul(gy, W) if 0 in indexes else None, matmul(gy.T, x), column_sums(gy))
        return tuple(chainer.as_variable(gradients[i]) for i in indexes)
