"""Which network and profile made a given feature matrix? A few of its pictures are enough to tell."""
import dataclasses

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.networks import NETWORKS
from chainer_caption.features.pictures import PictureError
from chainer_caption.features.profiles import PROFILES

#: Mean cosine similarity that the right pair reaches. Decoders of JPEG that round differently, and features kept in
#: half precision, cost a few thousandths at most.
THRESHOLD = 0.98

#: How many times farther from 1 the similarity of every other pair has to be. Features of similar profiles are
#: similar themselves, so that being above the threshold is not enough: the right pair stands out.
MARGIN = 2

_BATCH = 8


@dataclasses.dataclass(frozen=True)
class FeatureCheck:
    """What `check_features` found.

    Attributes:
        similarities (dict): (network, profile) to the mean cosine similarity of the matrix with features made so.
        verdict (tuple of str or None): The (network, profile) that made the matrix; None when none of them did, or
            when these pictures cannot tell.
        pictures (int): How many pictures were compared; the ones that cannot be read are left out.
    """

    similarities: dict
    verdict: tuple | None
    pictures: int


def check_features(features, paths, extractors, profiles=None):
    """Finds the network and the profile that made a feature matrix, by making some of its rows again.

    The verdict is the pair whose mean cosine similarity is the highest, if it is at least `THRESHOLD` and all others
    are at least `MARGIN` times as far from 1.

    Args:
        features (numpy.ndarray): Rows of the matrix, shape (N, D), float.
        paths (sequence of str): The N pictures, in the same order. A few dozen are plenty.
        extractors (iterable of Extractor): One for each network, with its weights; gone through once, so that a
            generator keeps no more than one network in memory.
        profiles (iterable of str): Profiles to try, by default all of the network's picture size.

    Returns:
        FeatureCheck: The similarities, and the verdict.

    Raises:
        InputError: Not one picture can be read, or their number is not that of the rows.
    """
    features = np.asarray(features, np.float64)
    if len(features) != len(paths):
        raise InputError(f'{len(features)} rows of features for {len(paths)} pictures')
    similarities = {}
    for extractor in extractors:
        size = NETWORKS[extractor.network].size
        for profile in profiles or [name for name in PROFILES if PROFILES[name].size == size]:
            made, rows = _extract(extractor.with_profile(profile), paths)
            similarities[extractor.network, profile] = _mean_cosine(made, features[rows])
    return FeatureCheck(similarities, _verdict(similarities), len(rows))


def _extract(extractor, paths):
    made, batch, rows = [], [], []
    for row, path in enumerate(paths):
        try:
            batch.append(extractor.prepare(path))
            rows.append(row)
        except PictureError:
            pass
        if batch and (len(batch) == _BATCH or row == len(paths) - 1):
            made.append(chainer.get_device('@numpy').send(extractor(np.stack(batch))))
            batch = []
    if not rows:
        raise InputError('none of the pictures can be read, so there is nothing to compare')
    return np.concatenate(made).astype(np.float64), rows


def _mean_cosine(a, b):
    if a.shape != b.shape:                              # another dimension D: certainly not this network
        return 0.0
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)))


def _verdict(similarities):
    (pair, best), *others = sorted(similarities.items(), key=lambda item: -item[1])
    if best < THRESHOLD or any(1 - other < MARGIN * (1 - best) for _, other in others):
        return None
    return pair
