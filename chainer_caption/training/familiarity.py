"""The statistics of the training images, and the confidence of the model, at the end of a training."""
import pathlib
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.evaluation.calibration import FEWEST, MOST, calibrate, fit_familiarity
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.prefetch import compute_batch, prepared_batches
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.familiarity import sample_rows
from chainer_caption.training.extensions import scored_images
from chainer_caption.training.updater import Say

# Training images whose features a fine-tuned encoder computes, at most.
_IMAGES = 2000


def add_familiarity(folder: pathlib.Path, dataset: Any, device: Any, seed: int, paths: dict[int, str] | None,
                    say: Say) -> None:
    """Writes `familiarity.npz` into the model directory of a training, for its best weights. The confidence is fitted
    to the captions of `val`, where that has enough images with captions.

    Args:
        dataset, device, seed, say: Those of the training.
        paths: The images by the rows of their features, of an encoder that was fine-tuned; None where the features are
            the dataset's.
    """
    best = Bundle.load(folder)
    if paths is not None:
        dataset = _with_features(dataset, best, paths, device, seed)
    best.familiarity = fit_familiarity(dataset, best.model.reads, seed)
    if len(scored_images(dataset)) >= FEWEST:
        say('fitting the confidence to captions of val')
        try:
            calibrate(best, dataset, device=device)
        except (InputError, NotImplementedError) as e:  # too little memory; a model of one's own without a decoder
            say(f'{folder}: its confidence is not fitted ({e})')
    best.save_familiarity(folder)


def _with_features(dataset: Any, best: Bundle, paths: dict[int, str], device: Any, seed: int) -> Any:
    """The dataset with features of the fine-tuned encoder: of some training images, and of those of `val` that
    calibrate the confidence. The others, and images that cannot be read, are in no split."""
    ids = dataset.captions.image_ids
    known: Any = best.provenance
    extractor = Extractor.load(**known, weights=best.encoder_path, device=device)
    training = sample_rows(dataset.images(*dataset.training_splits), _IMAGES, seed)
    scored = scored_images(dataset)
    chosen = np.concatenate([training, sample_rows(scored, MOST, seed)])
    images = {paths[int(ids[image])]: int(image) for image in chosen}
    # The system provides memory only for the rows that are written.
    features, found = np.zeros((len(dataset.features), extractor.dim), np.float32), []
    for batch in prepared_batches(extractor, list(images)):
        places = np.array([images[path] for path, _ in batch])
        features[ids[places]] = compute_batch(extractor, batch, (extractor.dim,))
        found += [place for place, (_, image) in zip(places, batch, strict=True) if isinstance(image, np.ndarray)]
    other = dataset.without(np.setdiff1d(np.arange(len(ids)), found))
    other.features, other.provenance = features, best.provenance
    return other
