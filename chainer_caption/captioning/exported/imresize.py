"""MATLAB's imresize: bicubic, antialiased, the image mirrored at its borders, without rounding."""
import numpy as np


def imresize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image, (H, W, C) uint8, resized to (height, width, C), float32 in the same units."""
    rows, columns = _weights(image.shape[0], height), _weights(image.shape[1], width)
    resized = np.tensordot(rows, image.astype(np.float32), (1, 0))          # (height, W, C)
    return np.tensordot(columns, resized, (1, 1)).transpose(1, 0, 2)


def _weights(old, new):
    """The matrix, (new, old), that resamples one dimension."""
    stretch = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5                    # of the new pixels, in old ones
    reach = int(np.ceil(2 * stretch))
    sources = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 2)
    weights = _cubic((centres[:, None] - sources) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = sources % (2 * old)
    mirrored = np.where(mirrored < old, mirrored, 2 * old - 1 - mirrored)
    matrix = np.zeros((new, old), np.float32)
    np.add.at(matrix, (np.arange(new)[:, None], mirrored), weights)
    return matrix


def _cubic(x):
    """The kernel of cubic convolution with a = -0.5 (R. Keys 1981)."""
    x = np.abs(x)
    far = -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return np.where(x <= 1, 1.5 * x ** 3 - 2.5 * x ** 2 + 1, np.where(x < 2, far, 0))
