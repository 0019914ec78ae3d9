"""Which encoder and preprocessing made a given feature matrix? A few of its images are enough to tell."""
import dataclasses
import itertools
import os

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.features.encoders import ENCODERS
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.folders import find_in_folder
from chainer_caption.features.images import ImageError
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.features.weights import find_weights

#: Mean cosine similarity that the right pair reaches. Decoders of JPEG that round differently, and features kept in
#: half precision, cost a few thousandths at most.
THRESHOLD = 0.98

#: How many times farther from 1 the similarity of every other pair has to be. Features of similar preprocessings are
#: similar themselves, so that being above the threshold is not enough: the right pair stands out.
MARGIN = 2

_BATCH = 8


@dataclasses.dataclass(frozen=True)
class FeatureCheck:
    """What `check_features` found.

    Attributes:
        similarities (dict): (encoder, preprocessing) to the mean cosine similarity of the matrix with features made so.
        verdict (tuple of str or None): The (encoder, preprocessing) that made the matrix; None when none of them did,
            or when these images cannot tell.
        images (int): How many images were compared; the ones that cannot be read are left out.
    """

    similarities: dict
    verdict: tuple | None
    images: int


def check_features(features, paths, extractors, preprocessings=None):
    """Finds the encoder and the preprocessing that made a feature matrix, by making some of its rows again.

    The verdict is the pair whose mean cosine similarity is the highest, if it is at least `THRESHOLD` and all others
    are at least `MARGIN` times as far from 1.

    Args:
        features (numpy.ndarray): Rows of the matrix, shape (N, D), float.
        paths (sequence of str): The N images, in the same order. A few dozen are plenty.
        extractors (iterable of Extractor): One for each encoder, with its weights; gone through once, so that a
            generator keeps no more than one encoder in memory.
        preprocessings (iterable of str): Preprocessings to try, by default all that the encoder may have been used
            with.

    Returns:
        FeatureCheck: The similarities, and the verdict.

    Raises:
        InputError: Not one image can be read, or their number is not that of the rows.
    """
    features = np.asarray(features, np.float64)
    if len(features) != len(paths):
        raise InputError(f'{len(features)} rows of features for {len(paths)} images')
    similarities = {}
    for extractor in extractors:
        for preprocessing in preprocessings or _usual_profiles(ENCODERS[extractor.encoder]):
            made, rows = _extract(extractor.with_preprocessing(preprocessing), paths)
            similarities[extractor.encoder, preprocessing] = _mean_cosine(made, features[rows])
    return FeatureCheck(similarities, _verdict(similarities), len(rows))


def _usual_profiles(encoder):
    return [name for name, preprocessing in PREPROCESSINGS.items()
            if preprocessing.size in (encoder.size,
                                      None) and (not preprocessing.encoders or encoder.name in preprocessing.encoders)]


def sample_images(filenames, folder, limit=16, seed=0):
    """Picks images of a dataset to check, among those that are at hand.

    Args:
        filenames (sequence of str): The dataset's images.
        folder (str or os.PathLike): Where to look for them, in whatever order and folders (`find_by_name`).
        limit (int): How many to pick at most.
        seed (int): Of the choice.

    Returns:
        tuple: Their places in `filenames`, (n,) int, ascending; and a list of their paths.

    Raises:
        InputError: Not one of them is there.
    """
    found = find_in_folder(filenames, folder)
    places = [i for i, filename in enumerate(filenames) if filename in found]
    if not places:
        raise InputError(f'{folder}: none of the images in there is one of the dataset, whose first is '
                         f'{filenames[0]}')
    chosen = np.sort(np.random.default_rng(seed).permutation(len(places))[:limit])
    places = np.array(places)[chosen]
    return places, [found[filenames[i]] for i in places]


def find_extractors(weights=(), encoders=(), device='@numpy', honour_exif=True, say=lambda line: None):
    """Loads the encoders to check, one after another.

    Args:
        weights (sequence of str): Files of weights. If it is empty, the weights are looked for where Chainer keeps its
            models.
        encoders (sequence of str): The encoder of each file; if it is empty, each file's encoder is found out. Without
            files, the encoders to load; if it is empty, all whose weights are found.
        device (str or chainer.backend.Device): Where they run.
        honour_exif (bool): As for `Extractor.load`.
        say (callable): Takes a notice, one line, about an encoder that is left out.

    Yields:
        Extractor: Each with weights; keep none, and only one is in memory at a time.

    Raises:
        InputError: A file is missing, damaged, or of no encoder here; or not one encoder is to be had.
    """
    if weights and encoders and len(weights) != len(encoders):
        raise InputError(f'{len(weights)} files of weights for {len(encoders)} encoders')
    if weights:
        for path, encoder in itertools.zip_longest(weights, encoders):
            yield _extractor(path, [encoder] if encoder else ENCODERS, device, honour_exif)
        return
    for encoder in encoders or ENCODERS:
        try:
            find_weights(ENCODERS[encoder])
        except InputError as e:
            if encoders:
                raise
            say(f'not tried: {e}')
        else:
            yield Extractor.load(encoder, device=device, honour_exif=honour_exif)


def _extractor(path, encoders, device, honour_exif):
    # A larger encoder's file may hold all that a smaller one wants, so the larger one is tried first. Those of the two
    # ResNets differ in nothing but their names.
    reasons, name = [], os.path.basename(path)
    for encoder in sorted(encoders, key=lambda encoder: name not in ENCODERS[encoder].weights):
        try:
            return Extractor.load(encoder, weights=path, device=device, honour_exif=honour_exif)
        except InputError as e:
            reasons.append(e)
    raise reasons[0]


def _extract(extractor, paths):
    made, batch, rows = [], [], []
    for row, path in enumerate(paths):
        try:
            batch.append(extractor.prepare(path))
            rows.append(row)
        except ImageError:
            pass
        if batch and (len(batch) == _BATCH or row == len(paths) - 1):
            made.append(chainer.get_device('@numpy').send(extractor(batch)))
            batch = []
    if not rows:
        raise InputError('none of the images can be read, so there is nothing to compare')
    return np.concatenate(made).astype(np.float64), rows


def _mean_cosine(a, b):
    if a.shape != b.shape:                              # another dimension D: certainly not this encoder
        return 0.0
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)))


def _verdict(similarities):
    (pair, best), *others = sorted(similarities.items(), key=lambda item: -item[1])
    if best < THRESHOLD or any(1 - other < MARGIN * (1 - best) for _, other in others):
        return None
    return pair
