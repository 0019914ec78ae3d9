"""Reads pictures in threads while the ones before them are computed."""
import collections
import concurrent.futures
import itertools

import chainer
import numpy as np

from chainer_caption.features.pictures import PictureError

#: Pictures that go through the network together. Batches begin at fixed places, so that a picture is always computed
#: in the same company and its features are the same to the last bit, whatever came before.
BATCH = 16


def prepared_batches(extractor, paths):
    """Prepares pictures, a batch at a time; two threads are up to one batch ahead.

    Args:
        extractor (Extractor): Its `prepare` is called.
        paths (iterable of str): The pictures.

    Yields:
        list of tuple: Up to `BATCH` pairs of a path and its picture, as `prepare` has it, or the `PictureError` that
        says why there is none.
    """
    def prepare(path):
        try:
            return path, extractor.prepare(path)
        except PictureError as e:
            return path, e

    prepared = _ahead(prepare, paths, BATCH)
    while batch := list(itertools.islice(prepared, BATCH)):
        yield batch


def computed(compute, batch, shape):
    """What comes of the pictures of a batch, on the CPU.

    Args:
        compute (callable): Takes a list of prepared pictures and gives an array of what comes of them, on any device.
        batch (list of tuple): From `prepared_batches`.
        shape (tuple of int): Of what comes of one.

    Returns:
        numpy.ndarray: (len(batch), *shape), float32; zero where there is no picture.
    """
    rows = np.zeros((len(batch), *shape), np.float32)
    good = [i for i, (_, picture) in enumerate(batch) if isinstance(picture, np.ndarray)]
    if good:
        rows[good] = chainer.get_device('@numpy').send(compute([batch[i][1] for i in good]))
    return rows


def _ahead(function, items, window):
    """`map(function, items)` in threads that stay at most `window` items ahead."""
    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix='pictures') as pool:
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
