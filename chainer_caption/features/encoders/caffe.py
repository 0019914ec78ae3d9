"""ResNet-101 and GoogLeNet of Caffe: Chainer's own links, up to the features below their classifier."""
from typing import Any

import chainer.functions as F
import chainer.links as L

_TORCH = {'W': 'weight', 'b': 'bias', 'gamma': 'weight', 'beta': 'bias', 'avg_mean': 'running_mean',
          'avg_var': 'running_var', 'conv4': 'downsample.0', 'bn4': 'downsample.1', 'fc6': 'fc'}        # other names


class ResNet101(L.ResNet101Layers):
    """ResNet-101 up to pool5 (K. He et al., "Deep Residual Learning for Image Recognition", 2015); 44 million
    parameters. It loads the `.npz` files of Chainer's link, and state dicts with the authors' weights under
    torchvision's names (ruotianluo/pytorch-resnet)."""

    epsilon = 1e-5                          #: added to variances in Caffe and PyTorch; Chainer's link adds more

    def __init__(self) -> None:
        super().__init__(pretrained_model=None)
        self.cleargrads()

    def forward(self, x: Any) -> Any:
        """Features of prepared images, (N, 3, H, W) with sides of 3 or more: pool5, the mean over all positions,
        (N, 2048), not negative."""
        return super().forward(x, layers=['pool5'])['pool5']

    def torch_name(self, name: str) -> str | None:
        """An array's name in state dicts; None for counts and for a bias that is always zero."""
        if name == 'conv1/b' or name.endswith('/N'):
            return None
        *block, layer, part = name.split('/')
        if block:
            stage, unit = block
            layer = f'layer{int(stage[3:]) - 1}.{int(unit[1:] or 0)}.{_TORCH.get(layer, layer)}'
        return f'{_TORCH.get(layer, layer)}.{_TORCH[part]}'


class GoogLeNet(L.GoogLeNet):
    """GoogLeNet up to pool5 (C. Szegedy et al., "Going Deeper with Convolutions", 2014); 7 million parameters, and
    those of the three classifiers in its `.npz` files."""

    def __init__(self) -> None:
        super().__init__(pretrained_model=None)
        self.cleargrads()

    def forward(self, x: Any) -> Any:
        """Features of prepared images, (N, 3, 224, 224): pool5, (N, 1024), not negative."""
        return F.reshape(super().forward(x, layers=['pool5'])['pool5'], (len(x), 1024))
