"""MATLAB's `imresize`, bicubic: the resampling behind the published VGG features of the caption data sets."""
import functools

import numpy as np

from chainer_caption.features.images import bands


def imresize(image, height, width):
    """Resizes an image as MATLAB's `imresize(image, [height width])` does in floating point.

    Bicubic interpolation (R. Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -0.5);
    when the image shrinks the kernel is stretched, so that it averages; at the borders the image is continued by
    its mirror image. Nothing is rounded and nothing clipped: the result can pass 0 and 255 a little.

    Args:
        image (DecodedImage or numpy.ndarray): Shape (H, W, C), uint8 or float. It is read in bands: a float copy of the
            whole would take four times the memory.
        height (int): Rows of the result.
        width (int): Columns of the result.

    Returns:
        numpy.ndarray: Shape (height, width, C), float32, in the units of `image`.
    """
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


def _resample(image, new, axis):
    image = np.moveaxis(image, axis, 0)
    flat = np.ascontiguousarray(image, np.float32).reshape(len(image), -1)
    resized = _weights(len(image), new) @ flat
    return np.moveaxis(resized.reshape(new, *image.shape[1:]), 0, axis)


@functools.lru_cache(maxsize=64)
def _weights(old, new):
    """The (new, old) sparse matrix that resamples one dimension."""
    from scipy import sparse  # takes longer to import than all that a `-h` needs
    stretch = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5                    # of the new pixels, in old ones
    reach = int(np.ceil(2 * stretch))
    sources = np.floor(centres).astype(np.int64)[:, None] + np.arange(-reach, reach + 2)
    weights = _cubic((centres[:, None] - sources) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = sources % (2 * old)
    mirrored = np.where(mirrored < old, mirrored, 2 * old - 1 - mirrored)
    targets = np.broadcast_to(np.arange(new)[:, None], sources.shape)
    used = weights != 0
    # Border pixels that are met twice, directly and in the mirror, add up in the conversion.
    return sparse.coo_matrix((weights[used].astype(np.float32), (targets[used], mirrored[used])), (new, old)).tocsr()


def _cubic(x):
    x = np.abs(x)
    near = 1.5 * x ** 3 - 2.5 * x ** 2 + 1
    far = -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
