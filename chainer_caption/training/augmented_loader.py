"""Images that threads decode and augment while the update before is computed."""
import concurrent.futures
from typing import Any

import numpy as np

from chainer_caption.features.extractor import prepare
from chainer_caption.features.images import ImageError, open_image
from chainer_caption.functions.cpu_count import thread_count
from chainer_caption.training.settings import Settings
from chainer_caption.training.updater import Say

LEAST = 0.75            #: the least part of each side of an image that random cropping leaves
_VARIATIONS = 1003      # random stream of an update, distinct from those of others


class AugmentedLoader:
    """Loads the images of each minibatch, whose `paths` are by the rows of their features, and computes the frozen
    layers `lower`. `say` takes a notice of each image that cannot be read, in whose place there are zeros."""

    def __init__(self, lower: Any, paths: dict[int, str], preprocessing: Any, settings: Settings, say: Say) -> None:
        self._lower, self._paths, self._preprocessing, self._say = lower, paths, preprocessing, say
        self._pool = concurrent.futures.ThreadPoolExecutor(max(2, thread_count()), thread_name_prefix='images')
        self._scheduled: dict[tuple[int, int], Any] = {}
        self._failed: set[int] = set()
        self._augment, self._seed = settings.augment, settings.seed

    def schedule(self, rows: np.ndarray, update: int) -> None:
        """Starts to decode the images of an update."""
        self._scheduled.update(((row, update), self._begun(row, update)) for row in rows.tolist())

    def __call__(self, rows: np.ndarray, update: int) -> Any:
        """The outputs of the frozen layers for the images of an update, (n, ...) float32, on the device."""
        # The first update has not been scheduled.
        futures = [self._scheduled.pop((row, update), None) or self._begun(row, update) for row in rows.tolist()]
        return self._lower(np.stack([self._image(*pair) for pair in zip(rows.tolist(), futures, strict=True)]))

    def _begun(self, row: int, update: int) -> concurrent.futures.Future:
        return self._pool.submit(self._prepared, row, update)

    def _image(self, row: int, future: concurrent.futures.Future) -> np.ndarray:
        try:
            return future.result()
        except ImageError as e:
            if row not in self._failed:
                self._failed.add(row)
                self._say(f'{self._paths[row]}: {e}; zeros are used in its place')
            return np.zeros((3, self._preprocessing.size, self._preprocessing.size), np.float32)

    def _prepared(self, row: int, update: int) -> np.ndarray:
        if not self._augment:
            return prepare(self._paths[row], self._preprocessing)
        # Depends on the seed, the update and the image, so that a resumed training has the same.
        rng = np.random.default_rng((self._seed, update, row, _VARIATIONS))
        with open_image(self._paths[row], min_side=self._preprocessing.min_side) as image:
            return self._preprocessing.prepare(varied(image, rng))


def varied(image: Any, rng: np.random.Generator) -> np.ndarray:
    """A random crop of an RGB image or array (H, W, 3), uint8, mirrored or not, with at least `LEAST` of both sides."""
    parts = []
    for side in image.shape[:2]:
        kept = max(1, round(side * rng.uniform(LEAST, 1)))
        start = int(rng.integers(side - kept + 1))
        parts.append(slice(start, start + kept))
    part = image[tuple(parts)]
    return part[:, ::-1] if rng.random() < 0.5 else part
