"""Preprocessing: how an image becomes the array that an encoder takes (size, crop, resampling, channel order, mean)."""
import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from chainer_caption.features.images import DecodedImage, ImageError
from chainer_caption.features.resize import imresize

# The sides that Caffe's ResNet-101 needs: its pooling has no borders, and of less it would leave nothing.
_LEAST = 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """A way to prepare images for an encoder.

    Attributes:
        name (str): Its name, as recorded with features and models.
        size (int or None): Side S of the square that comes out, in pixels; None for images at their own size.
        fit (callable): Takes RGB uint8 (H, W, 3) and `size`; returns RGB (S, S, 3), any dtype, in grey levels 0-255.
        channels (str): `'RGB'` or `'BGR'`, the order of the channels that come out.
        mean (tuple of float): Subtracted from each channel, in grey levels, in the order of `channels`.
        scale (tuple of float): What each channel is divided by after that.
        least (int or None): What `open_image` may leave of an image's sides, where that is good enough.
        encoders (tuple of str): The encoders that have been used with it; empty for any of its size. Without a size
            they are those that take images of any.
    """

    name: str
    size: int | None
    fit: Callable
    channels: str
    mean: tuple
    scale: tuple = (1.0, 1.0, 1.0)
    least: int | None = None
    encoders: tuple = ()

    def prepare(self, rgb):
        """Prepares one image.

        Args:
            rgb (DecodedImage or numpy.ndarray): RGB, shape (H, W, 3), uint8, of any size.

        Returns:
            numpy.ndarray: Shape (3, S, S), or (3, H, W) without a size; float32, contiguous.

        Raises:
            ImageError: It is too small to be taken at its own size.
        """
        pixels = np.asarray(self.fit(rgb, self.size), np.float32)
        if self.channels == 'BGR':
            pixels = pixels[:, :, ::-1]
        return np.ascontiguousarray(((pixels - np.float32(self.mean)) / np.float32(self.scale)).transpose(2, 0, 1))


def _squash_matlab(rgb, size):
    return imresize(rgb, size, size)


def _squash_bilinear(rgb, size):
    return _image(rgb).resize((size, size), Image.Resampling.BILINEAR)


def _squash_bicubic(rgb, size):
    return _image(rgb).resize((size, size), Image.Resampling.BICUBIC)


def _crop_nearest(rgb, size):
    height, width = _with_short_side(rgb, size)
    corner = (height - size) // 2, (width - size) // 2
    return _cut(rgb, (height, width), corner, size, Image.Resampling.NEAREST)


def _crop_bilinear(rgb, size):
    height, width = _with_short_side(rgb, round(size * 256 / 224))
    corner = round((height - size) / 2), round((width - size) / 2)
    return _cut(rgb, (height, width), corner, size, Image.Resampling.BILINEAR)


def _whole(rgb, size):
    if min(rgb.shape[:2]) < _LEAST:
        raise ImageError(None, f'{rgb.shape[1]} x {rgb.shape[0]} pixels are too few for features of its own size')
    return rgb


def _with_short_side(rgb, side):
    height, width = rgb.shape[:2]
    short = min(height, width)
    return side * height // short, side * width // short


def _cut(rgb, shape, corner, size, resample):
    # The square at `corner` (top, left) of the image resized to `shape` (height, width), without making the rest of
    # it: that could be any amount for an image that is long and thin.
    (top, left), down, across = corner, rgb.shape[0] / shape[0], rgb.shape[1] / shape[1]
    box = left * across, top * down, (left + size) * across, (top + size) * down
    return _image(rgb).resize((size, size), resample, box)


def _image(rgb):
    return rgb.to_image() if isinstance(rgb, DecodedImage) else Image.fromarray(rgb)


# Mean and deviation of ImageNet's red, green and blue, in grey levels.
_IMAGENET = (255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)

#: The preprocessings by name.
#:
#: - `karpathy`: the whole image squashed as MATLAB does it; the features of the *deepimagesent* datasets
#:   (A. Karpathy, neuraltalk, `matlab_features_reference`), with the mean colour of VGG's own training.
#: - `seed`: the short side to 224 by nearest neighbour (what Pillow's `resize` did when not told otherwise in 2017),
#:   the centre cut out; dsanno/chainer-image-caption's way with new images.
#: - `torchvision`: the short side to 256 by antialiased bilinear interpolation, the centre cut out, ImageNet's mean and
#:   deviation of RGB in [0, 1]; what weights from torchvision and timm were trained with.
#: - `lite`: the whole image squashed by antialiased bicubic interpolation, RGB, (x - 127) / 128; EfficientNet-Lite.
#:   JPEG's decoder may have averaged pixels of large photos before, down to three times the size: that changed
#:   them by less than 0.5 grey levels in the mean, and left their features a cosine of 0.9992 at least.
#: - `inception`: torchvision's way with Inception v3, the short side to 342 and the centre of 299 cut out, RGB in
#:   [-1, 1]; its encoder takes ImageNet's mean and deviation off again, which here nobody has put on.
#: - `whole`: the image at its own size, normalised as by `torchvision`; ruotianluo/ImageCaptioning.pytorch
#:   (`scripts/prepro_feats.py`), whose features are the mean over all places of an image.
#: - `demo`: the whole image squashed by antialiased bilinear interpolation, RGB in [-1, 1]; the embedded dataset.
PREPROCESSINGS = {preprocessing.name: preprocessing for preprocessing in (
    Preprocessing('karpathy', 224, _squash_matlab, 'BGR', (103.939, 116.779, 123.68)),
    Preprocessing('seed', 224, _crop_nearest, 'BGR', (104.0, 117.0, 124.0)),
    Preprocessing('torchvision', 224, _crop_bilinear, 'RGB', *_IMAGENET),
    Preprocessing('lite', 224, _squash_bicubic, 'RGB', (127.0, 127.0, 127.0), (128.0, 128.0, 128.0),
            3 * 224, ('efficientnet_lite0',)),
    Preprocessing('inception', 299, _crop_bilinear, 'RGB', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    Preprocessing('whole', None, _whole, 'RGB', *_IMAGENET, encoders=('resnet101',)),
    Preprocessing('demo', 96, _squash_bilinear, 'RGB', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
)}
