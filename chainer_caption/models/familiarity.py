"""How near an image is to those that a model was trained on, and how sure its caption is: `familiarity.npz`.

The features of the training images are kept as the centers of a spherical k-means (Dhillon & Modha 2001). The nearness
of an image is the cosine of its feature vector to the nearest center. Its familiarity is a share: so many training
images, held out from the clustering, are less near. Its confidence is a probability: logistic regression (Platt 1999)
on the nearness and on the caption's log-probability per token, fitted to captions whose CIDEr is known
(`evaluation.calibration`)."""
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse
from chainer.backends import cuda

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import Path, write_npz

FAMILIARITY = 'familiarity.npz'                         #: its file in a model directory
#: Training images that are clustered at most; more change nothing and take longer.
SAMPLE = 10_000
_CENTERS, _BYTES = 400, 960 * 1024                      # at most; of the centers in half precision
_ITERATIONS = 10
_IMAGES_A_CENTER = 8                                    # at least, in the mean
_LEVELS = 101


@dataclasses.dataclass(frozen=True, eq=False)
class Familiarity:
    """The statistics of a model's training images.

    Attributes:
        centers: (K, D) float16, of length 1.
        levels: The nearness that 0 %, 1 %, … 100 % of the held-out images do not exceed: (101,) float64, sorted.
        calibration: (3,) float64: the confidence is the logistic function of c0 + c1 * nearness + c2 * log-probability
            per token, where c1 and c2 are not negative. None: nothing has been fitted.
    """
    centers: np.ndarray
    levels: np.ndarray
    calibration: np.ndarray | None = None

    @classmethod
    def fit(cls, features: np.ndarray, seed: int = 0) -> Familiarity:
        """The statistics of the feature vectors of training images, (n, D) floats with n >= 1, in random order
        (`sample_rows`): every tenth is held out. The same features give the same result."""
        vectors = _unit(features, np.float32)
        held_out = np.arange(len(vectors)) % 10 == 0
        rest = vectors[~held_out] if len(vectors) > 1 else vectors
        count = min(_CENTERS, _BYTES // (2 * vectors.shape[1]), len(rest) // _IMAGES_A_CENTER)
        centers = _cluster(rest, max(1, count), np.random.default_rng(seed)).astype(np.float16)
        fitted = cls(centers, np.zeros(_LEVELS))
        levels = np.quantile(fitted.nearness(vectors[held_out]), np.linspace(0, 1, _LEVELS))
        return dataclasses.replace(fitted, levels=levels)

    def nearness(self, features: Any) -> np.ndarray:
        """The cosine of each image's features to the nearest center, (n,) float64; features as a model reads them, on
        any device: (n, D) vectors, (n, L, D) grids, of which the mean counts, or a tuple that begins with vectors."""
        if isinstance(features, tuple):
            features = features[0]
        vectors = cuda.to_cpu(features if features.ndim == 2 else features.mean(axis=1))
        with np.errstate(invalid='ignore', over='ignore'):
            # In double precision an image has the same digits in every batch.
            return (_unit(vectors) @ self.centers.T.astype(np.float64)).max(axis=1)

    def familiarity(self, nearness: np.ndarray) -> np.ndarray:
        """The share of held-out training images that are less near, from 0 to 1."""
        return np.interp(nearness, self.levels, np.linspace(0, 1, len(self.levels)))

    def confidence(self, nearness: np.ndarray, log_prob_per_token: np.ndarray) -> np.ndarray:
        """The probability that a caption is good, by the `calibration`."""
        assert self.calibration is not None
        return _logistic(_columns(nearness, log_prob_per_token) @ self.calibration)

    def calibrate(self, nearness: np.ndarray, log_prob_per_token: np.ndarray, good: np.ndarray) -> Familiarity:
        """A copy whose confidence is fitted to captions that are known to be good or not, (n,) bool."""
        columns = _columns(nearness, log_prob_per_token)
        mean, scale = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-6)
        mean[0], scale[0] = 0, 1
        scaled = (columns - mean) / scale
        # Platt's targets keep the fit finite where all captions are good, or none.
        positives = np.count_nonzero(good)
        targets = np.where(good, (positives + 1) / (positives + 2), 1 / (len(good) - positives + 2))

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            logits = scaled @ weights
            return (float(np.sum(np.logaddexp(0, logits) - targets * logits)),
                    scaled.T @ (_logistic(logits) - targets))
        # In a few images the less familiar may have better captions by chance: noise would be trusted most.
        weights = scipy.optimize.minimize(loss, np.zeros(3), jac=True, method='L-BFGS-B',
                                          bounds=[(None, None), (0, None), (0, None)]).x / scale
        weights[0] -= weights[1:] @ mean[1:]
        return dataclasses.replace(self, calibration=weights)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What the file holds."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def save(self, path: Path) -> None:
        """Writes the file, atomically."""
        write_npz(path, self.to_arrays())

    @classmethod
    def load(cls, path: Path, size: int) -> Familiarity:
        """Reads the file of a model whose features have `size` numbers; InputError where it is damaged or another
        model's."""
        arrays = read_npz(path)
        centers, levels, calibration = (arrays.get(field.name) for field in dataclasses.fields(cls))
        if centers is None or levels is None or centers.ndim != 2 or levels.ndim != 1 or not (
                centers.size and len(levels) > 1 and (calibration is None or calibration.shape == (3,))):
            raise InputError(f'{path}: should hold centers, levels and perhaps a calibration of three numbers')
        if centers.shape[1] != size:
            raise InputError(f'{path}: of features of {centers.shape[1]} numbers, but the model has {size}')
        if any(array.dtype.kind != 'f' or not np.isfinite(array).all() for array in arrays.values()):
            raise InputError(f'{path}: holds values that are not finite numbers')
        return cls(centers, levels, calibration)


def sample_rows(rows: np.ndarray, limit: int = SAMPLE, seed: int = 0) -> np.ndarray:
    """At most `limit` of some rows, in a random order, which the seed determines."""
    return np.random.default_rng(seed).permutation(rows)[:limit]


def _unit(features: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
    vectors = np.asarray(features, dtype)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _cluster(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The centers of `count` clusters of vectors of length 1, by a spherical k-means from random vectors."""
    centers = vectors[rng.choice(len(vectors), count, replace=False)]
    for _ in range(_ITERATIONS):
        nearest = (vectors @ centers.T).argmax(axis=1)
        members = scipy.sparse.csr_array((np.ones(len(vectors), vectors.dtype), (nearest, np.arange(len(vectors)))),
                                         shape=(count, len(vectors)))
        there = np.unique(nearest)                      # an empty cluster keeps its center
        centers[there] = _unit((members @ vectors)[there], vectors.dtype)
    return centers


def _columns(nearness: np.ndarray, log_prob_per_token: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(nearness)), nearness, log_prob_per_token])


def _logistic(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * logits)            # without exponentials that overflow
