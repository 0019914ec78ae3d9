"""Diversity of captions: how many differ, how many words they use, how many are new."""
import itertools
from collections.abc import Iterable, Sequence


def diversity(predictions: Iterable, training: Iterable | None = None,
              finished: Iterable[bool] | None = None) -> dict[str, float]:
    """Describes a set of captions (at least one), each a sequence of tokens.

    ``'distinct'`` is the number of different captions over the number of captions; ``'vocabulary'`` the number (int) of
    different words they use; ``'mean_length'`` is in words; ``'novel'`` is the share of captions that are not among the
    training captions word for word (absent without ``training``); ``'unfinished'`` the share of captions that did not
    end before the maximum length (absent without ``finished``, a mark of each)."""
    captions = [tuple(caption) for caption in predictions]
    if not captions:
        raise ValueError('no caption to describe')
    result = {'distinct': len(set(captions)) / len(captions), 'vocabulary': len(set().union(*captions)),
              'mean_length': sum(map(len, captions)) / len(captions)}
    if training is not None:
        known = set(map(tuple, training))
        result['novel'] = sum(caption not in known for caption in captions) / len(captions)
    if finished is not None:
        finished = list(finished)
        if len(finished) != len(captions):
            raise ValueError(f'{len(finished)} marks of being finished for {len(captions)} captions')
        result['unfinished'] = sum(not mark for mark in finished) / len(captions)
    return result


def distinct_ngrams(images: Iterable[Sequence], n: int) -> float:
    """The number of different n-grams in the captions of an image (sequences of tokens) over that of all their n-grams:
    the mean over the images whose captions have n-grams, 1 where none is repeated, 0 where no image has any."""
    shares = []
    for captions in images:
        grams = [gram for caption in captions for gram in zip(*(itertools.islice(caption, i, None) for i in range(n)),
                                                              strict=False)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else 0.0
