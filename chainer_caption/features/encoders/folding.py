"""Convolutions that have the batch normalisation after them in their weights, as encoders for inference may."""
import chainer.links as L

from chainer_caption.features.encoders.stages import Staged
from chainer_caption.functions.convolution_2d import convolution_2d


class Folded(Staged):
    """A chain of convolutions, each with its bias, into which batch normalisation is folded when weights are loaded.

    y = gamma (W x - mean) / sqrt(var + epsilon) + beta is a convolution itself, so that nothing is left to do for it.
    Parameters are zero until weights are loaded.

    Attributes:
        epsilon (float): What its batch normalisation adds to variances.
        torch_layers (dict): Name of each link to the names that PyTorch's state dicts have for the convolution and for
            its batch normalisation.
    """

    epsilon = 1e-5

    def __init__(self):
        super().__init__()
        self.torch_layers = {}

    def convolution(self, name, torch_names, *args, **kwargs):
        """Adds the link `name`, with further arguments as `L.Convolution2D` takes them."""
        with self.init_scope():
            setattr(self, name, without_gradients(_Convolution(*args, initialW=0, initial_bias=0, **kwargs)))
        self.torch_layers[name] = torch_names


class _Convolution(L.Convolution2D):
    def forward(self, x):
        return convolution_2d(x, self.W, self.b, self.stride, self.pad, self.groups)


def without_gradients(layer):
    """The link itself, without the arrays for gradients that Chainer makes beforehand, each as large as its parameter;
    training makes them when they are needed."""
    layer.cleargrads()
    return layer
