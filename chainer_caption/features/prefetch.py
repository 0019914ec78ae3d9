"""Reads images in threads while the ones before them are computed."""
import collections
import concurrent.futures
import itertools

import chainer
import numpy as np

from chainer_caption.features.images import ImageError

#: Images that go through the encoder together. Batches begin at fixed places, so that an image is always computed
#: in the same company and its features are the same to the last bit, whatever came before.
BATCH = 16


def prepared_batches(extractor, paths):
    """Prepares images, a batch at a time; two threads are up to one batch ahead.

    Args:
        extractor (Extractor): Its `prepare` is called.
        paths (iterable of str): The images.

    Yields:
        list of tuple: Up to `BATCH` pairs of a path and its image, as `prepare` has it, or the `ImageError` that
        says why there is none.
    """
    def prepare(path):
        try:
            return path, extractor.prepare(path)
        except ImageError as e:
            return path, e

    prepared = _ahead(prepare, paths, BATCH)
    while batch := list(itertools.islice(prepared, BATCH)):
        yield batch


def computed(compute, batch, shape):
    """What comes of the images of a batch, on the CPU.

    Args:
        compute (callable): Takes a list of prepared images and gives an array of what comes of them, on any device.
        batch (list of tuple): From `prepared_batches`.
        shape (tuple of int): Of what comes of one.

    Returns:
        numpy.ndarray: (len(batch), *shape), float32; zero where there is no image.
    """
    rows = np.zeros((len(batch), *shape), np.float32)
    good = [i for i, (_, image) in enumerate(batch) if isinstance(image, np.ndarray)]
    if good:
        rows[good] = chainer.get_device('@numpy').send(compute([batch[i][1] for i in good]))
    return rows


def _ahead(function, items, window):
    """`map(function, items)` in threads that stay at most `window` items ahead."""
    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix='images') as pool:
        pending = collections.deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
