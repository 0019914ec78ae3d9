"""Preprocessing: how an image becomes an encoder's input (size, crop, resampling, channel order, mean, scale)."""
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from chainer_caption.features.images import DecodedImage, ImageError
from chainer_caption.features.resize import imresize

# Caffe's ResNet-101 needs both sides: its pooling has no padding.
_MIN_OWN_SIDE = 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """A way to prepare images for an encoder.

    Attributes:
        name: Its name, as recorded with features and models.
        size: Side S of the output, in pixels; None for images at their own size.
        fit: Takes RGB uint8 (H, W, 3) and `size`; returns RGB (S, S, 3) of any dtype, in grey levels 0 to 255.
        channels: `'RGB'` or `'BGR'`, the order of the output's channels.
        mean: Subtracted from each channel, in grey levels, in the order of `channels`.
        scale: Divides each channel after that.
        min_side: The `min_side` of `open_image` that is precise enough; None for full size only.
        encoders: The encoders that have been used with it; empty for any of its size. Without a size, those that take
            images of any size.
    """

    name: str
    size: int | None
    fit: Callable[[Any, Any], Any]
    channels: str
    mean: tuple[float, ...]
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    min_side: int | None = None
    encoders: tuple[str, ...] = ()

    def prepare(self, rgb: DecodedImage | np.ndarray) -> np.ndarray:
        """Prepares one image, RGB (H, W, 3) uint8: (3, S, S), or (3, H, W) without a size; float32, contiguous.

        Raises:
            ImageError: It is too small to be used at its own size.
        """
        pixels = np.asarray(self.fit(rgb, self.size), np.float32)
        if self.channels == 'BGR':
            pixels = pixels[:, :, ::-1]
        mean, scale = (np.array(values, np.float32) for values in (self.mean, self.scale))
        return np.ascontiguousarray(((pixels - mean) / scale).transpose(2, 0, 1))


def _squash_matlab(rgb: Any, size: int) -> np.ndarray:
    return imresize(rgb, size, size)


def _squash(resample: Image.Resampling, rgb: Any, size: int) -> Image.Image:
    return _image(rgb).resize((size, size), resample)


def _crop_nearest(rgb: Any, size: int) -> Image.Image:
    height, width = _with_short_side(rgb, size)
    corner = (height - size) // 2, (width - size) // 2
    return _crop(rgb, (height, width), corner, size, Image.Resampling.NEAREST)


def _crop_bilinear(rgb: Any, size: int) -> Image.Image:
    height, width = _with_short_side(rgb, round(size * 256 / 224))
    corner = round((height - size) / 2), round((width - size) / 2)
    return _crop(rgb, (height, width), corner, size, Image.Resampling.BILINEAR)


def _own_size(rgb: Any, size: None) -> Any:
    if min(rgb.shape[:2]) < _MIN_OWN_SIDE:
        raise ImageError(None, f'{rgb.shape[1]} x {rgb.shape[0]} pixels are too few for features of its own size')
    return rgb


def _with_short_side(rgb: Any, side: int) -> tuple[int, int]:
    height, width = rgb.shape[:2]
    short = min(height, width)
    return side * height // short, side * width // short


def _crop(rgb: Any, shape: tuple[int, int], corner: tuple[int, int], size: int,
          resample: Image.Resampling) -> Image.Image:
    # The square at `corner` (top, left) of the image resized to `shape` (height, width), without resizing the rest,
    # which could take any amount of memory for a long and thin image.
    (top, left), down, across = corner, rgb.shape[0] / shape[0], rgb.shape[1] / shape[1]
    box = left * across, top * down, (left + size) * across, (top + size) * down
    return _image(rgb).resize((size, size), resample, box)


def _image(rgb: Any) -> Image.Image:
    return rgb.to_image() if isinstance(rgb, DecodedImage) else Image.fromarray(rgb)


# Mean and standard deviation of ImageNet's red, green and blue, in grey levels.
_IMAGENET = (255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)

#: The preprocessings by name.
#:
#: - `karpathy`: the whole image squashed by MATLAB's imresize, with the mean colour of VGG's training; the features of
#:   the *deepimagesent* datasets (A. Karpathy, neuraltalk, `matlab_features_reference`).
#: - `seed`: the short side to 224 by nearest neighbour (the default of Pillow's `resize` in 2017), centre crop; new
#:   images in dsanno/chainer-image-caption.
#: - `torchvision`: the short side to 256 by antialiased bilinear interpolation, centre crop, ImageNet's mean and
#:   deviation; the training of weights from torchvision and timm.
#: - `lite`: the whole image squashed by antialiased bicubic interpolation, RGB, (x - 127) / 128; EfficientNet-Lite.
#:   Large JPEG images may be decoded at a fraction of their size, three times 224 at least: that changed pixels by less
#:   than 0.5 grey levels in the mean, and features had a cosine of 0.9992 or more.
#: - `inception`: torchvision's for Inception v3, the short side to 342, a centre crop of 299, RGB in [-1, 1].
#:   torchvision's encoder undoes ImageNet's normalisation, which is not applied here.
#: - `whole`: the image at its own size, normalised as by `torchvision`; ruotianluo/ImageCaptioning.pytorch
#:   (`scripts/prepro_feats.py`), whose features are the mean over all positions.
#: - `demo`: the whole image squashed by antialiased bilinear interpolation, RGB in [-1, 1]; the embedded dataset.
PREPROCESSINGS = {preprocessing.name: preprocessing for preprocessing in (
    Preprocessing('karpathy', 224, _squash_matlab, 'BGR', (103.939, 116.779, 123.68)),
    Preprocessing('seed', 224, _crop_nearest, 'BGR', (104.0, 117.0, 124.0)),
    Preprocessing('torchvision', 224, _crop_bilinear, 'RGB', *_IMAGENET),
    Preprocessing('lite', 224, functools.partial(_squash, Image.Resampling.BICUBIC), 'RGB', (127.0, 127.0, 127.0),
                  (128.0, 128.0, 128.0), 3 * 224, ('efficientnet_lite0',)),
    Preprocessing('inception', 299, _crop_bilinear, 'RGB', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    Preprocessing('whole', None, _own_size, 'RGB', *_IMAGENET, encoders=('resnet101',)),
    Preprocessing('demo', 96, functools.partial(_squash, Image.Resampling.BILINEAR), 'RGB', (127.5, 127.5, 127.5),
                  (127.5, 127.5, 127.5)),
)}
