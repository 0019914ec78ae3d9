"""What users see in captions that no score tells: how many differ, how many words they use, how many are new."""
import itertools


def diversity(predictions, training=None, finished=None):
    """Describes a set of captions.

    Args:
        predictions: Captions (at least one), each a sequence of tokens.
        training: The captions that were trained on, each a sequence of tokens, or None where they are not at hand.
        finished: For each prediction whether it came to its end before the longest length allowed, or None.

    Returns:
        dict: ``'distinct'``, the number of different captions over the number of captions; ``'vocabulary'``, the number
        (int) of different words they use; ``'mean_length'``, in words; ``'novel'``, the share of captions that are not
        among the training captions word for word (absent without ``training``); ``'unfinished'``, the share of captions
        that are not finished (absent without ``finished``).
    """
    captions = [tuple(caption) for caption in predictions]
    if not captions:
        raise ValueError('no caption to describe')
    result = {
        'distinct': len(set(captions)) / len(captions),
        'vocabulary': len(set().union(*captions)),
        'mean_length': sum(map(len, captions)) / len(captions),
    }
    if training is not None:
        known = set(map(tuple, training))
        result['novel'] = sum(caption not in known for caption in captions) / len(captions)
    if finished is not None:
        finished = list(finished)
        if len(finished) != len(captions):
            raise ValueError(f'{len(finished)} marks of being finished for {len(captions)} captions')
        result['unfinished'] = sum(not mark for mark in finished) / len(captions)
    return result


def distinct_ngrams(images, n):
    """By how much the captions of each image differ: the number of different n-grams over that of all of them.

    Args:
        images: For each image its captions (at least one), each a sequence of tokens.
        n (int): The length of the n-grams.

    Returns:
        float: The mean over the images whose captions have n-grams; 1 says that none stands twice. 0 where no
        image has any.
    """
    shares = []
    for captions in images:
        grams = [gram for caption in captions for gram in zip(*(itertools.islice(caption, i, None) for i in range(n)),
                                                              strict=False)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares) if shares else 0.0
