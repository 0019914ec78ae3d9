"""Preprocessing: how an image becomes an encoder's input (size, crop, resampling, channel order, mean, scale)."""
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from chainer_caption.features.images import DecodedImage, ImageError, bands


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """A way to prepare images for an encoder."""

    name: str                               #: as recorded with features and models
    size: Any                               #: side S of the output, or (height, width), in pixels; None for any
    #: Takes RGB uint8 (H, W, 3) and `size`; returns RGB (S, S, 3) of any dtype, in grey levels 0 to 255.
    fit: Callable[[Any, Any], Any]
    channels: str                           #: `'RGB'` or `'BGR'`, the order of the output's channels
    mean: tuple[float, ...]                 #: subtracted from each channel, in grey levels, in the order of `channels`
    scale: tuple[float, ...] = (1.0,) * 3   #: divides each channel after that
    min_side: int | None = None             #: of `open_image`, that is precise enough; None for full size only
    #: The encoders used with it; empty for any of its size. Without a size, those that take images of any size.
    encoders: tuple[str, ...] = ()

    def prepare(self, rgb: DecodedImage | np.ndarray) -> np.ndarray:
        """Prepares one image, RGB (H, W, 3) uint8: (3, S, S), or (3, H, W) without a size; float32, contiguous.
        ImageError is raised where it is too small to be used at its own size."""
        pixels = np.asarray(self.fit(rgb, self.size), np.float32)
        if self.channels == 'BGR':
            pixels = pixels[:, :, ::-1]
        mean, scale = (np.array(values, np.float32) for values in (self.mean, self.scale))
        return np.ascontiguousarray(((pixels - mean) / scale).transpose(2, 0, 1))

    def to_json(self) -> dict[str, Any]:
        """What it does in JSON values, for other programs: `resize` is `squash` (the whole image to S x S), `crop` (the
        short side to `short_side`, then the middle S x S) or null (the image's own size), and `filter` one of Pillow's
        resampling filters, `matlab` or null."""
        how = {_squash_matlab: ('squash', 'matlab'), _crop_nearest: ('crop', 'nearest'),
               _crop_bilinear: ('crop', 'bilinear'), _own_size: (None, None)}
        fit: Any = self.fit
        resize, name = how[fit] if fit in how else ('squash', fit.args[0].name.lower())
        side = {'short_side': self.size if name == 'nearest' else _short_side(self.size)} if resize == 'crop' else {}
        return {'name': self.name, 'size': self.size, 'resize': resize, **side, 'filter': name,
                'channels': self.channels, 'mean': list(self.mean), 'scale': list(self.scale)}


def imresize(image: DecodedImage | np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image as MATLAB's `imresize(image, [height width])` does in floating point.

    The kernel is cubic convolution with a = -0.5 (R. Keys 1981), stretched when shrinking so that it averages, over
    the image mirrored at its borders; the result is neither rounded nor clipped. In float32 it differs from double
    precision by less than 0.001 grey levels; Pillow's bicubic by 3 to 14 at the borders. `image` is (H, W, C), uint8 or
    float, and the result (height, width, C), float32, in the same units. The image is read in bands: a float copy of
    the whole takes four times the memory."""
    old_height, old_width, channels = image.shape
    if old_width > old_height:                          # the longer side first: less is left for the second
        resized = np.empty((old_height, width, channels), np.float32)
        for band in bands(old_height, old_width):
            resized[band] = _resample(image[band, :], width, axis=1)
        return _resample(resized, height, axis=0)
    resized = np.empty((height, old_width, channels), np.float32)
    for band in bands(old_width, old_height):
        resized[:, band] = _resample(image[:, band], height, axis=0)
    return _resample(resized, width, axis=1)


def _resample(image: np.ndarray, new: int, axis: int) -> np.ndarray:
    image = np.moveaxis(image, axis, 0)
    resized = _weights(len(image), new) @ np.ascontiguousarray(image, np.float32).reshape(len(image), -1)
    return np.moveaxis(resized.reshape(new, *image.shape[1:]), 0, axis)


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int) -> Any:                # the (new, old) sparse matrix that resamples one dimension
    from scipy import sparse  # takes longer to import than a whole `-h`
    stretch = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5                    # of the new pixels, in old ones
    reach = int(np.ceil(2 * stretch))
    sources = np.floor(centres).astype(np.int64)[:, None] + np.arange(-reach, reach + 2)
    weights = _cubic((centres[:, None] - sources) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = sources % (2 * old)
    mirrored = np.where(mirrored < old, mirrored, 2 * old - 1 - mirrored)
    targets, used = np.broadcast_to(np.arange(new)[:, None], sources.shape), weights != 0
    # The conversion adds up border pixels that occur twice, directly and mirrored.
    return sparse.coo_matrix((weights[used].astype(np.float32), (targets[used], mirrored[used])), (new, old)).tocsr()


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    far = -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return np.where(x <= 1, 1.5 * x ** 3 - 2.5 * x ** 2 + 1, np.where(x < 2, far, 0.0))


def _squash_matlab(rgb: Any, size: int) -> np.ndarray:
    return imresize(rgb, size, size)


def _squash(resample: Image.Resampling, rgb: Any, size: int) -> Image.Image:
    return squash(resample, rgb, size, size)


def _crop_nearest(rgb: Any, size: int) -> Image.Image:
    height, width = _with_short_side(rgb, size)
    top, left = (height - size) // 2, (width - size) // 2
    return _crop(rgb, (height, width), top, left, (size, size), Image.Resampling.NEAREST)


def _crop_bilinear(rgb: Any, size: int) -> Image.Image:
    height, width = _with_short_side(rgb, _short_side(size))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return _crop(rgb, (height, width), top, left, (size, size), Image.Resampling.BILINEAR)


def center_crop(resample: Image.Resampling, crop_pct: float, rgb: Any, height: int, width: int) -> Image.Image:
    """The centre of an image RGB (H, W, 3), height x width pixels of it after it was resized, without changing its
    shape, to cover `1 / crop_pct` of both; timm's name for that."""
    old_height, old_width = rgb.shape[:2]
    high, wide = int(height / crop_pct), int(width / crop_pct)
    if high * old_width >= wide * old_height:
        wide = max(width, high * old_width // old_height)
    else:
        high = max(height, wide * old_height // old_width)
    top, left = round((high - height) / 2), round((wide - width) / 2)
    return _crop(rgb, (high, wide), top, left, (height, width), resample)


def squash(resample: Image.Resampling, rgb: Any, height: int, width: int) -> Image.Image:
    """The whole of an image RGB (H, W, 3), resized to height x width pixels."""
    return _image(rgb).resize((width, height), resample)


def _short_side(size: Any) -> int:
    return round(size * 256 / 224)


def _own_size(rgb: Any, size: None) -> Any:
    if min(rgb.shape[:2]) < 3:              # Caffe's ResNet-101 needs both sides: its pooling has no padding
        raise ImageError(None, f'{rgb.shape[1]} x {rgb.shape[0]} pixels are too few for features of its own size')
    return rgb


def _with_short_side(rgb: Any, side: int) -> tuple[int, int]:
    height, width = rgb.shape[:2]
    return side * height // min(height, width), side * width // min(height, width)


def _crop(rgb: Any, shape: tuple[int, int], top: int, left: int, size: tuple[int, int],
          resample: Image.Resampling) -> Image.Image:
    # A part, `size` (height, width), of the image resized to `shape`, without resizing the rest, which could take any
    # amount of memory for a long and thin image.
    (height, width), down, across = size, rgb.shape[0] / shape[0], rgb.shape[1] / shape[1]
    box = left * across, top * down, (left + width) * across, (top + height) * down
    return _image(rgb).resize((width, height), resample, box)


def _image(rgb: Any) -> Image.Image:
    return rgb.to_image() if isinstance(rgb, DecodedImage) else Image.fromarray(rgb)


# Mean and standard deviation of ImageNet's red, green and blue, in grey levels; and what makes them -1 to 1.
_IMAGENET = (255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)
_SIGNED = (127.5,) * 3, (127.5,) * 3

#: The preprocessings by name:
#: - `karpathy`: the whole image squashed by MATLAB's imresize, with the mean colour of VGG's training; the features of
#:   the *deepimagesent* datasets (A. Karpathy, neuraltalk, `matlab_features_reference`).
#: - `seed`: the short side to 224 by nearest neighbour (the default of Pillow's `resize` in 2017), centre crop; new
#:   images in dsanno/chainer-image-caption.
#: - `torchvision`: the short side to 256 by antialiased bilinear interpolation, centre crop, ImageNet's mean and
#:   deviation; the training of weights from torchvision and timm.
#: - `lite`, `lite260`: the whole image squashed to 224 or 260 by antialiased bicubic interpolation, RGB, (x - 127) /
#:   128; EfficientNet-Lite0 and Lite2. Large JPEG images may be decoded at three times that or more: for `lite` that
#:   changed pixels by less than 0.5 grey levels on average, and features had a cosine of 0.9992 or more.
#: - `inception`: torchvision's for Inception v3, the short side to 342, a centre crop of 299, RGB in [-1, 1].
#:   torchvision's encoder undoes ImageNet's normalisation, which is not applied here.
#: - `whole`: the image at its own size, normalised as by `torchvision`; ruotianluo/ImageCaptioning.pytorch
#:   (`scripts/prepro_feats.py`), whose features are the mean over all positions.
#: - `demo`: the whole image squashed by antialiased bilinear interpolation, RGB in [-1, 1]; the embedded dataset.
PREPROCESSINGS = {preprocessing.name: preprocessing for preprocessing in (
    Preprocessing('karpathy', 224, _squash_matlab, 'BGR', (103.939, 116.779, 123.68)),
    Preprocessing('seed', 224, _crop_nearest, 'BGR', (104.0, 117.0, 124.0)),
    Preprocessing('torchvision', 224, _crop_bilinear, 'RGB', *_IMAGENET),
    *(Preprocessing(name, size, functools.partial(_squash, Image.Resampling.BICUBIC), 'RGB', (127.0,) * 3, (128.0,) * 3,
                    3 * size, (encoder,))
      for name, size, encoder in (('lite', 224, 'efficientnet_lite0'), ('lite260', 260, 'efficientnet_lite2'))),
    Preprocessing('inception', 299, _crop_bilinear, 'RGB', *_SIGNED),
    Preprocessing('whole', None, _own_size, 'RGB', *_IMAGENET, encoders=('resnet101',)),
    Preprocessing('demo', 96, functools.partial(_squash, Image.Resampling.BILINEAR), 'RGB', *_SIGNED),
)}
