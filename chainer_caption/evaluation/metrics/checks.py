"""The faults of a call that would otherwise give a wrong figure in silence, found before anything is counted."""


def checked_references(references):
    """Returns references as a list of lists.

    Args:
        references: For each of N pictures, its references (at least one), each a sequence of tokens.

    Raises:
        ValueError: There is no picture, or one has no reference.
        TypeError: A reference is a string where its tokens are wanted.
    """
    references = [list(captions) for captions in references]
    if not references:
        raise ValueError('no picture to score')
    for picture, captions in enumerate(references):
        if not captions:
            raise ValueError(f'picture {picture} has no reference')
        _check_tokens(captions, f'a reference of picture {picture}')
    return references


def checked_candidates(candidates, pictures):
    """Returns candidates as a list.

    Args:
        candidates: For each picture one caption, a sequence of tokens.
        pictures (int): How many there must be.

    Raises:
        ValueError: There are more or fewer.
        TypeError: A candidate is a string where its tokens are wanted.
    """
    candidates = list(candidates)
    if len(candidates) != pictures:
        raise ValueError(f'{len(candidates)} candidates for {pictures} pictures')
    _check_tokens(candidates, 'a candidate')
    return candidates


def _check_tokens(captions, what):
    # Letters would be scored as if they were words.
    if any(isinstance(caption, str) for caption in captions):
        raise TypeError(f'{what} is a string; a sequence of tokens is wanted')
