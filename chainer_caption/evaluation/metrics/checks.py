"""Checks of references and predictions: errors that would otherwise give a wrong figure silently."""
from __future__ import annotations

from collections.abc import Iterable, Sequence


def checked_references(references: Iterable) -> list[list]:
    """References as a list of lists.

    Args:
        references: For each of N images, its references (at least one), each a sequence of tokens.

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
    """Predictions as a list.

    Args:
        predictions: For each image one caption, a sequence of tokens.
        images: Number of predictions that there must be.

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
