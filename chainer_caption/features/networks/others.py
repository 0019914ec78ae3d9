"""ResNet-101 and GoogLeNet: Chainer's own links, up to the features below their classifier."""
import chainer.functions as F
import chainer.links as L


class ResNet101(L.ResNet101Layers):
    """ResNet-101 up to pool5 (K. He et al., "Deep Residual Learning for Image Recognition", 2015); 44 million
    parameters. They are those of Chainer's link, the classifier's included, whose `.npz` files fit."""

    def __init__(self):
        super().__init__(pretrained_model=None)
        self.cleargrads()

    def forward(self, x):
        """Computes the features of prepared pictures, (N, 3, 224, 224): pool5, (N, 2048), not negative."""
        return super().forward(x, layers=['pool5'])['pool5']


class GoogLeNet(L.GoogLeNet):
    """GoogLeNet up to pool5 (C. Szegedy et al., "Going Deeper with Convolutions", 2014); 7 million parameters, and
    those of three classifiers, as Chainer's link and its `.npz` files have them."""

    def __init__(self):
        super().__init__(pretrained_model=None)
        self.cleargrads()

    def forward(self, x):
        """Computes the features of prepared pictures, (N, 3, 224, 224): pool5, (N, 1024), not negative."""
        return F.reshape(super().forward(x, layers=['pool5'])['pool5'], (len(x), 1024))
