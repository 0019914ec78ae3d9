"""Checks of references and predictions: errors that would otherwise give a wrong figure silently."""
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np


def checked_references(references: Iterable) -> list[list]:
    """References as a list of lists: for each of N images at least one, each a sequence of tokens.

    Raises:
        ValueError: There is no image, or one has no reference.
        TypeError: A reference is a string where its tokens are wanted.
    """
    references = [list(captions) for captions in references]
    if not references:
        raise ValueError('no image to score')
    for image, captions in enumerate(references):
        if not captions:
            raise ValueError(f'image {image} has no reference')
        _check_tokens(captions, f'a reference of image {image}')
    return references


def checked_predictions(predictions: Iterable, images: int) -> list:
    """Predictions as a list: for each of the images one caption, a sequence of tokens.

    Raises:
        ValueError: There are more or fewer.
        TypeError: A prediction is a string where its tokens are wanted.
    """
    predictions = list(predictions)
    if len(predictions) != images:
        raise ValueError(f'{len(predictions)} predictions for {images} images')
    _check_tokens(predictions, 'a prediction')
    return predictions


def _check_tokens(captions: Sequence, what: str) -> None:
    # Letters would be scored as if they were words.
    if any(isinstance(caption, str) for caption in captions):
        raise TypeError(f'{what} is a string; a sequence of tokens is wanted')


class ImageScorer:
    """Metric of each image by itself, of which the figure of a corpus is the mean; a subclass defines `of_image`. The
    references are as for `checked_references`."""
    name: ClassVar[str]

    def __init__(self, references: Iterable) -> None:
        self._references = checked_references(references)

    def of_image(self, prediction: Sequence, references: Sequence) -> float:
        """The metric of one prediction, in [0, 1]."""
        raise NotImplementedError

    def score(self, predictions: Iterable) -> tuple[dict, dict]:
        """Scores N predictions, sequences of tokens: ``{name: float}`` in [0, 1], the mean over images, and ``{name:
        array}``, (N,), each image's own."""
        predictions = checked_predictions(predictions, len(self._references))
        each = np.array([self.of_image(*pair) for pair in zip(predictions, self._references, strict=True)])
        return {self.name: float(each.mean())}, {self.name: each}
