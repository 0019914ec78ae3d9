"""Inception v3 up to its pooled features: the encoder of im2txt, with torchvision's weights."""
from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import chainer.functions as F

from chainer_caption.features.encoders.stages import FoldedEncoder, Stage

# The layers before the first inception module: poolings, and convolutions with channels, kernel size, stride, padding.
_STEM: tuple = (('Conv2d_1a_3x3', 32, 3, 2, 0), ('Conv2d_2a_3x3', 32, 3, 1, 0), ('Conv2d_2b_3x3', 64, 3, 1, 1), 'max',
                ('Conv2d_3b_1x1', 80, 1, 1, 0), ('Conv2d_4a_3x3', 192, 3, 1, 0), 'max')


# The inception modules: parallel branches, each a sequence of steps. A convolution is its name, channels, and kernel
# height and width; it keeps the size, or halves it with a stride of 2 as a fifth item. A list is convolutions of the
# same input, whose outputs are concatenated.
_DOUBLE = ('branch3x3dbl_1', 64, 1, 1), ('branch3x3dbl_2', 96, 3, 3)


def _a(pooled: int) -> tuple:
    return ((('branch1x1', 64, 1, 1),), (('branch5x5_1', 48, 1, 1), ('branch5x5_2', 64, 5, 5)),
            (*_DOUBLE, ('branch3x3dbl_3', 96, 3, 3)), ('average', ('branch_pool', pooled, 1, 1)))


def _c(width: int) -> tuple:
    return ((('branch1x1', 192, 1, 1),),
            (('branch7x7_1', width, 1, 1), ('branch7x7_2', width, 1, 7), ('branch7x7_3', 192, 7, 1)),
            (('branch7x7dbl_1', width, 1, 1), ('branch7x7dbl_2', width, 7, 1), ('branch7x7dbl_3', width, 1, 7),
             ('branch7x7dbl_4', width, 7, 1), ('branch7x7dbl_5', 192, 1, 7)),
            ('average', ('branch_pool', 192, 1, 1)))


_B = (('branch3x3', 384, 3, 3, 2),), (*_DOUBLE, ('branch3x3dbl_3', 96, 3, 3, 2)), ('max',)
_D = ((('branch3x3_1', 192, 1, 1), ('branch3x3_2', 320, 3, 3, 2)),
      (('branch7x7x3_1', 192, 1, 1), ('branch7x7x3_2', 192, 1, 7), ('branch7x7x3_3', 192, 7, 1),
       ('branch7x7x3_4', 192, 3, 3, 2)), ('max',))
_E = ((('branch1x1', 320, 1, 1),),
      (('branch3x3_1', 384, 1, 1), [('branch3x3_2a', 384, 1, 3), ('branch3x3_2b', 384, 3, 1)]),
      (('branch3x3dbl_1', 448, 1, 1), ('branch3x3dbl_2', 384, 3, 3),
       [('branch3x3dbl_3a', 384, 1, 3), ('branch3x3dbl_3b', 384, 3, 1)]),
      ('average', ('branch_pool', 192, 1, 1)))

_INCEPTIONS = {'Mixed_5b': _a(32), 'Mixed_5c': _a(64), 'Mixed_5d': _a(64), 'Mixed_6a': _B, 'Mixed_6b': _c(128),
               'Mixed_6c': _c(160), 'Mixed_6d': _c(160), 'Mixed_6e': _c(192), 'Mixed_7a': _D, 'Mixed_7b': _E,
               'Mixed_7c': _E}


class InceptionV3(FoldedEncoder):
    """Inception v3 (C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015) as
    torchvision has it, without the auxiliary classifier; 22 million parameters. The features are the mean over all
    positions, (N, 2048), not negative."""

    epsilon = 1e-3

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for name, wider, *shape in (step for step in _STEM if step != 'max'):
            self.convolution(name, (name + '.conv', name + '.bn'), channels, wider, *shape)
            channels = wider
        for inception, branches in _INCEPTIONS.items():
            channels = sum(self._add_branch(inception, branch, channels) for branch in branches)

    def _add_branch(self, inception: str, branch: Iterable, channels: int) -> int:
        for step in branch:
            if isinstance(step, str):
                continue
            together = step if isinstance(step, list) else [step]
            for name, wider, height, width, *stride in together:
                theirs, pad = f'{inception}.{name}', (0, 0) if stride else (height // 2, width // 2)
                self.convolution(f'{inception}_{name}', (theirs + '.conv', theirs + '.bn'), channels, wider,
                                 (height, width), *(stride or [1]), pad)
            channels = sum(convolution[1] for convolution in together)
        return channels

    def stages(self) -> list[Stage]:
        stem = [Stage(step[0], (step[0],), functools.partial(self._convolve, step[0], after == 'max'))
                for step, after in itertools.pairwise((*_STEM, None)) if step != 'max']
        return [*stem, *(Stage(name, tuple(link for link in self.torch_layers if link.startswith(f'{name}_')),
                               functools.partial(self._inception, name)) for name in _INCEPTIONS)]

    def _convolve(self, name: str, pool: bool, x: Any) -> Any:
        x = F.relu(self[name](x))
        return F.max_pooling_2d(x, 3, stride=2, cover_all=False) if pool else x

    def _inception(self, name: str, x: Any) -> Any:
        x = F.concat([self._branch(name, branch, x) for branch in _INCEPTIONS[name]])
        return F.mean(x, axis=(2, 3)) if name == list(_INCEPTIONS)[-1] else x

    def _branch(self, inception: str, branch: Iterable, x: Any) -> Any:
        for step in branch:
            if step == 'max':
                x = F.max_pooling_2d(x, 3, stride=2, cover_all=False)
            elif step == 'average':
                x = F.average_pooling_2d(x, 3, stride=1, pad=1)
            else:
                together = step if isinstance(step, list) else [step]
                x = F.concat([F.relu(self[f'{inception}_{convolution[0]}'](x)) for convolution in together])
        return x
