"""Fits the confidence of a model: the probability that a caption is good, of captions whose references are known."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chainer_caption.captioning.captioner import Captioner
from chainer_caption.data.batches import take_rows
from chainer_caption.evaluation.metrics.cider import CiderScorer
from chainer_caption.models.familiarity import Familiarity, sample_rows

if TYPE_CHECKING:
    from chainer_caption.data.dataset import Dataset
    from chainer_caption.models.bundle import Bundle

#: A caption is good from this CIDEr on.
GOOD = 0.5
#: Images that the confidence is fitted to, at least and at most.
FEWEST, MOST = 100, 1000
_BINS = 10

# Images of `val` are like those of training, so nothing measured on them tells how bad captions of others are. So many
# more captions, a share of those measured, stand for images that are near nothing: all of them are bad.
_UNLIKE = 0.05


def calibrate(bundle: Bundle, dataset: Dataset, split: str = 'val', search: Any = None, device: Any = '@numpy') -> bool:
    """Fits the confidence of a model to its captions of a split, by stored features; `Bundle.save` or
    `Bundle.save_familiarity` keeps it. A model without statistics of its training images gets those of the dataset's.

    Args:
        bundle: The model, whose `familiarity` is replaced. It moves to the device.
        dataset: A dataset with features as the model reads them, whose document frequencies CIDEr takes.
        split: Its images, without those that have no references; of more than `MOST` so many, evenly spread.
        search, device: The search that captions them, by default that of the model; a Chainer device.

    Returns whether there are enough images, `FEWEST` or more; the confidence stays as it is where there are not. Raises
    InputError where the features are not the model's, or there are no training images."""
    captioner = Captioner(bundle, device)
    if bundle.familiarity is None:
        bundle.familiarity = fit_familiarity(dataset, bundle.model.reads)
    captions = dataset.captions
    described = dataset.images(split)
    described = described[np.diff(captions.sentences)[described] > 0]
    chosen = described[np.linspace(0, len(described) - 1, min(MOST, len(described))).round().astype(int)]
    if len(chosen) < FEWEST:
        return False
    results = list(captioner.caption_images(dataset, chosen, captioner.search(search, top=1)))
    found = np.array([bool(result.captions) for result in results])     # none where the scores overflow
    if np.count_nonzero(found) < FEWEST:
        return False
    best = [result.captions[0] for result in results if result.captions]
    cider = CiderScorer([dataset.references(image) for image in chosen[found]]).score(
        [caption.tokens for caption in best])[1]['CIDEr']
    nearness = bundle.familiarity.nearness(_vectors(dataset, bundle.model.reads, captions.image_ids[chosen[found]]))
    scores, more = np.array([caption.log_prob_per_token for caption in best]), round(_UNLIKE * len(best))
    bundle.familiarity = bundle.familiarity.calibrate(
        np.append(nearness, np.zeros(more)), np.append(scores, scores[::len(best) // more][:more]),
        np.append(cider >= GOOD, np.zeros(more, bool)))
    return True


def fit_familiarity(dataset: Dataset, reads: str, seed: int = 0) -> Familiarity:
    """The statistics of a dataset's training images, by the features that a model reads (one of `data.dataset.READS`).
    The seed chooses them, where there are very many."""
    rows = dataset.captions.image_ids[dataset.images(*dataset.training_splits)]
    return Familiarity.fit(_vectors(dataset, reads, sample_rows(rows, seed=seed)), seed)


def calibration_error(confidence: np.ndarray, good: np.ndarray) -> float:
    """The expected calibration error (Naeini et al. 2015) in ten bins of equal width: the mean distance, over captions,
    of the mean confidence in their bin from the share of good ones in it. (n,) float in [0, 1] and (n,) bool."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return float(np.abs(np.bincount(bins, confidence - good, _BINS)).sum() / len(bins))


def _vectors(dataset: Dataset, reads: str, rows: np.ndarray) -> np.ndarray:
    """A vector for each row of the features, (n, D) float32: of a grid the mean over its locations."""
    features = dataset.inputs(reads)
    array = features[0] if isinstance(features, tuple) else features
    if array.ndim == 2:
        return take_rows(array, rows)
    # One after another: memory-mapped grids may be larger than the memory.
    return np.concatenate([take_rows(array, row).mean(axis=1) for row in rows[:, None]])
