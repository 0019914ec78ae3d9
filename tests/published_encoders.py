"""The published encoders, over a few operations of PyTorch or Chainer: the reference for ours, which have batch
normalisation folded into their weights."""
import chainer
import chainer.functions as F
import numpy as np


def random_state(link, seed=0):
    """A state dict in PyTorch's names whose activations keep their size; `link` is a FoldedEncoder."""
    rng = np.random.default_rng(seed)
    state = {'fc.weight': np.zeros((10, 9), np.float32)}
    for name, (conv, norm) in link.torch_layers.items():
        W = link[name].W
        state[f'{conv}.weight'] = rng.normal(0, (2 / np.prod(W.shape[1:])) ** 0.5, W.shape)
        state[f'{norm}.weight'], state[f'{norm}.running_var'] = rng.uniform(0.4, 0.9, (2, len(W)))
        state[f'{norm}.bias'], state[f'{norm}.running_mean'] = rng.normal(0, 0.3, (2, len(W)))
        state[f'{norm}.num_batches_tracked'] = np.array(7)
    return {key: array if array.dtype == np.int64 else array.astype(np.float32) for key, array in state.items()}


class ChainerOperations:
    """The operations as Chainer's functions, on the arrays of a state dict."""

    def __init__(self, state, epsilon):
        self.state, self.epsilon = state, epsilon

    def convolve(self, x, conv, norm, stride=1, pad=0, groups=1):
        """A convolution and its batch normalisation."""
        with chainer.using_config('train', False):
            x = F.convolution_2d(x, self.state[f'{conv}.weight'], stride=stride, pad=pad, groups=groups)
            return F.fixed_batch_normalization(x, *(self.state[f'{norm}.{part}'] for part in (
                'weight', 'bias', 'running_mean', 'running_var')), eps=self.epsilon)

    relu, concat = staticmethod(F.relu), staticmethod(F.concat)

    def relu6(self, x):
        return F.minimum(F.relu(x), np.full(x.shape, 6, np.float32))

    def pad(self, x, left, right):
        return F.pad(x, ((0, 0), (0, 0), (left, right), (left, right)), 'constant')

    def max(self, x, pad=0, up=False):
        return F.max_pooling_2d(x, 3, 2, pad, cover_all=up)

    def average(self, x):
        return F.average_pooling_2d(x, 3, 1, 1)

    def pooled(self, x):
        with chainer.no_backprop_mode():
            return x.array.mean(axis=(2, 3))


class TorchOperations:
    """The operations as PyTorch's."""

    def __init__(self, state, epsilon):
        import torch
        self.torch, self.F, self.epsilon = torch, torch.nn.functional, epsilon
        self.state = {key: torch.from_numpy(array) for key, array in state.items()}

    def convolve(self, x, conv, norm, stride=1, pad=0, groups=1):
        x = x if isinstance(x, self.torch.Tensor) else self.torch.from_numpy(x)
        x = self.F.conv2d(x, self.state[f'{conv}.weight'], None, stride, pad, 1, groups)
        gamma, beta, mean, variance = (self.state[f'{norm}.{part}'] for part in (
            'weight', 'bias', 'running_mean', 'running_var'))
        return self.F.batch_norm(x, mean, variance, gamma, beta, eps=self.epsilon)

    def relu(self, x):
        return self.F.relu(x)

    def relu6(self, x):
        return self.F.relu6(x)

    def concat(self, xs):
        return self.torch.cat(xs, 1)

    def pad(self, x, left, right):
        x = x if isinstance(x, self.torch.Tensor) else self.torch.from_numpy(x)
        return self.F.pad(x, (left, right, left, right))

    def max(self, x, pad=0, up=False):
        return self.F.max_pool2d(x, 3, 2, pad, ceil_mode=up)

    def average(self, x):
        return self.F.avg_pool2d(x, 3, 1, 1)

    def pooled(self, x):
        return self.F.adaptive_avg_pool2d(x, 1).flatten(1).numpy()


def efficientnet_lite0(o, x):
    """M. Tan and Q. Le 2019, table 1, with the changes of EfficientNet-Lite."""
    return _efficientnet(o, x, (
        (1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192), (1, 3, 1, 320)))


def efficientnet_lite2(o, x):
    """That with 1.1 times the channels and 1.2 times the blocks."""
    return _efficientnet(o, x, (
        (1, 3, 1, 16), (3, 3, 2, 24), (3, 5, 2, 48), (4, 3, 2, 88), (4, 5, 1, 120), (5, 5, 2, 208), (1, 3, 1, 352)))


def _efficientnet(o, x, stages):
    def same(x, conv, norm, ksize, stride, groups=1):
        size = x.shape[2]
        missing = max((int(np.ceil(size / stride)) - 1) * stride + ksize - size, 0)
        return o.relu6(o.convolve(o.pad(x, missing // 2, missing - missing // 2), conv, norm, stride, 0, groups))

    x = same(x, '_conv_stem', '_bn0', 3, 2)
    block = 0
    for repeats, ksize, stride, out in stages:
        for repeat in range(repeats):
            name, h = f'_blocks.{block}.', x
            if block:
                h = o.relu6(o.convolve(h, name + '_expand_conv', name + '_bn0'))
            h = same(h, name + '_depthwise_conv', name + '_bn1', ksize, 1 if repeat else stride, h.shape[1])
            h = o.convolve(h, name + '_project_conv', name + '_bn2')
            assert h.shape[1] == out
            x = h + x if repeat else h
            block += 1
    return o.pooled(o.relu6(o.convolve(x, '_conv_head', '_bn1')))


def resnet101_torchvision(o, x):
    """K. He et al. 2015, table 1, with the stride in the 3 x 3 convolutions."""
    return _resnet101(o, o.max(o.relu(o.convolve(x, 'conv1', 'bn1', 2, 3)), 1), (False, True))


def resnet101(o, x):
    """The authors' own: the stride in the 1 x 1 convolutions, and pooling rounded up, as Caffe does it."""
    return _resnet101(o, o.max(o.relu(o.convolve(x, 'conv1', 'bn1', 2, 3)), up=True), (True, False))


def _resnet101(o, x, strided):
    for layer, blocks in enumerate((3, 4, 23, 3), 1):
        for block in range(blocks):
            name, stride = f'layer{layer}.{block}.', 2 if layer > 1 and block == 0 else 1
            first, second = (stride if here else 1 for here in strided)
            h = o.relu(o.convolve(x, name + 'conv1', name + 'bn1', first))
            h = o.relu(o.convolve(h, name + 'conv2', name + 'bn2', second, 1))
            h = o.convolve(h, name + 'conv3', name + 'bn3')
            x = o.relu(h + (o.convolve(x, name + 'downsample.0', name + 'downsample.1', stride) if block == 0 else x))
    return o.pooled(x)


def inception_v3(o, x):
    """C. Szegedy et al. 2015, table 1 and figures 5 to 7, in the names of torchvision."""
    def conv(x, name, stride=1, pad=0):
        return o.relu(o.convolve(x, f'{name}.conv', f'{name}.bn', stride, pad))

    def row(x, mixed, *steps):
        for name, *options in steps:
            x = conv(x, f'{mixed}.{name}', *options)
        return x

    def fork(x, mixed, name):
        return o.concat([conv(x, f'{mixed}.{name}a', 1, (0, 1)), conv(x, f'{mixed}.{name}b', 1, (1, 0))])

    x = conv(conv(conv(x, 'Conv2d_1a_3x3', 2), 'Conv2d_2a_3x3'), 'Conv2d_2b_3x3', 1, 1)
    x = o.max(conv(conv(o.max(x), 'Conv2d_3b_1x1'), 'Conv2d_4a_3x3'))
    for mixed in ('Mixed_5b', 'Mixed_5c', 'Mixed_5d'):
        x = o.concat([
            row(x, mixed, ['branch1x1']), row(x, mixed, ['branch5x5_1'], ['branch5x5_2', 1, 2]),
            row(x, mixed, ['branch3x3dbl_1'], ['branch3x3dbl_2', 1, 1], ['branch3x3dbl_3', 1, 1]),
            row(o.average(x), mixed, ['branch_pool'])])
    x = o.concat([row(x, 'Mixed_6a', ['branch3x3', 2]),
                  row(x, 'Mixed_6a', ['branch3x3dbl_1'], ['branch3x3dbl_2', 1, 1], ['branch3x3dbl_3', 2]), o.max(x)])
    for mixed in ('Mixed_6b', 'Mixed_6c', 'Mixed_6d', 'Mixed_6e'):
        wide, high = (0, 3), (3, 0)
        x = o.concat([
            row(x, mixed, ['branch1x1']),
            row(x, mixed, ['branch7x7_1'], ['branch7x7_2', 1, wide], ['branch7x7_3', 1, high]),
            row(x, mixed, ['branch7x7dbl_1'], ['branch7x7dbl_2', 1, high], ['branch7x7dbl_3', 1, wide],
                ['branch7x7dbl_4', 1, high], ['branch7x7dbl_5', 1, wide]),
            row(o.average(x), mixed, ['branch_pool'])])
    x = o.concat([row(x, 'Mixed_7a', ['branch3x3_1'], ['branch3x3_2', 2]),
                  row(x, 'Mixed_7a', ['branch7x7x3_1'], ['branch7x7x3_2', 1, (0, 3)], ['branch7x7x3_3', 1, (3, 0)],
                      ['branch7x7x3_4', 2]), o.max(x)])
    for mixed in ('Mixed_7b', 'Mixed_7c'):
        x = o.concat([
            row(x, mixed, ['branch1x1']), fork(row(x, mixed, ['branch3x3_1']), mixed, 'branch3x3_2'),
            fork(row(x, mixed, ['branch3x3dbl_1'], ['branch3x3dbl_2', 1, 1]), mixed, 'branch3x3dbl_3'),
            row(o.average(x), mixed, ['branch_pool'])])
    return o.pooled(x)
