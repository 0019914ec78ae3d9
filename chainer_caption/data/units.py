"""What captions are cut into: words, characters, or the characters of their reading in katakana."""
import functools

from chainer_caption.data.annotations import tokenize
from chainer_caption.errors import InputError


def cut(caption, unit):
    """Cuts a caption into tokens.

    Args:
        caption (str): As it was written.
        unit (str): One of `captions.UNITS`. `'words'`: see `tokenize`. `'characters'`, for languages without spaces:
            each letter, digit and mark, in lower case, and ' ' where there was space between them; punctuation is
            dropped. `'katakana'`: the characters of a Japanese caption's reading.

    Returns:
        list of str: Its tokens.

    Raises:
        InputError: Readings are wanted, and what gives them is not installed.
    """
    if unit == 'words':
        return tokenize(caption)
    return _characters(_reading(caption) if unit == 'katakana' else caption)


def join(tokens, unit):
    """The text of tokens: words with spaces between them, characters without."""
    return (' ' if unit == 'words' else '').join(tokens)


def split(text, unit):
    """The opposite of `join`, for captions that come as text; a list of str."""
    parts = text.split()
    return parts if unit == 'words' else list((' ' if unit == 'characters' else '').join(parts))


def _characters(caption):
    return list(' '.join(filter(None, (''.join(tokenize(part)) for part in caption.split()))))


def _reading(caption):
    # What is no Unicode is no Japanese.
    morphemes = _analyser().tokenize(caption.encode(errors='replace').decode())
    # Punctuation and space have readings, too: the words for them.
    return ''.join(morpheme.reading_form() for morpheme in morphemes if any(map(str.isalnum, morpheme.surface())))


@functools.lru_cache(maxsize=1)
def _analyser():
    try:
        from sudachipy import Dictionary
        return Dictionary(dict='core').tokenizer()
    except ImportError as e:
        raise InputError('--unit katakana needs a dictionary of readings: scripts/setup.sh japanese (or pip install '
                         'sudachipy sudachidict_core)') from e
