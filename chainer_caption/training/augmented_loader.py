"""Images decoded ahead, by threads, while the update before is computed."""
import concurrent.futures

import numpy as np

from chainer_caption.features.extractor import prepare
from chainer_caption.features.images import ImageError, open_image
from chainer_caption.functions.cpu_count import thread_count

#: Of each side of an image, what is left at least where it is cut at random.
LEAST = 0.75

# What is drawn from the seed and the number of the update, told apart from what others draw.
_VARIATIONS = 1003


class AugmentedLoader:
    """The images of a training that are not kept.

    Args:
        lower (FrozenLayers): What is computed of each minibatch before anything learns.
        paths (dict): The images by the rows of their features.
        preprocessing (Preprocessing): How they are prepared.
        settings (Settings): Of the training.
        say (callable): Takes a notice of each image that cannot be read; it is seen as nothing at all.
    """

    def __init__(self, lower, paths, preprocessing, settings, say):
        self._lower, self._paths, self._preprocessing, self._say = lower, paths, preprocessing, say
        self._pool = concurrent.futures.ThreadPoolExecutor(max(2, thread_count()), thread_name_prefix='images')
        self._ahead, self._failed = {}, set()
        self._augment, self._seed = settings.augment, settings.seed

    def schedule(self, rows, update):
        """Begins to decode the images of an update."""
        self._ahead.update(((row, update), self._begun(row, update)) for row in rows.tolist())

    def __call__(self, rows, update):
        """What the lower stages make of the images of an update, (n, ...), float32, on the device."""
        # The first update has not been announced.
        futures = [self._ahead.pop((row, update), None) or self._begun(row, update) for row in rows.tolist()]
        return self._lower(np.stack([self._image(*pair) for pair in zip(rows.tolist(), futures, strict=True)]))

    def _begun(self, row, update):
        return self._pool.submit(self._prepared, row, update)

    def _image(self, row, future):
        try:
            return future.result()
        except ImageError as e:
            if row not in self._failed:
                self._failed.add(row)
                self._say(f'{self._paths[row]}: {e}; seen as empty')
            return np.zeros((3, self._preprocessing.size, self._preprocessing.size), np.float32)

    def _prepared(self, row, update):
        if not self._augment:
            return prepare(self._paths[row], self._preprocessing)
        # It follows from the seed, the update and the image, so that a training that goes on sees the same.
        rng = np.random.default_rng((self._seed, update, row, _VARIATIONS))
        with open_image(self._paths[row], min_side=self._preprocessing.min_side) as image:
            return self._preprocessing.prepare(varied(image, rng))


def varied(image, rng):
    """A part of an image, as it is or mirrored.

    Args:
        image (Image or numpy.ndarray): RGB, (H, W, 3), uint8.
        rng (numpy.random.Generator): What it is drawn from.

    Returns:
        numpy.ndarray: RGB, uint8, with at least `LEAST` of both sides.
    """
    parts = []
    for side in image.shape[:2]:
        kept = max(1, round(side * rng.uniform(LEAST, 1)))
        start = int(rng.integers(side - kept + 1))
        parts.append(slice(start, start + kept))
    part = image[parts[0], parts[1]]
    return part[:, ::-1] if rng.random() < 0.5 else part
