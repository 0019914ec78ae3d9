"""What captions are cut into: words, characters, or the characters of their reading in katakana."""
import functools
import sys
import unicodedata

from chainer_caption.errors import InputError


def tokenize(caption, tokenizer):
    """Cuts a caption into tokens.

    Args:
        caption (str): As it was written.
        tokenizer (str): One of `captions.TOKENIZERS`. `'words'`: see `tokenize_words`. `'characters'`, for languages
            without spaces: each letter, digit and mark, in lower case, and ' ' where there was space between them;
            punctuation is dropped. `'katakana'`: the characters of a Japanese caption's reading.

    Returns:
        list of str: Its tokens.

    Raises:
        InputError: Readings are wanted, and what gives them is not installed.
    """
    if tokenizer == 'words':
        return tokenize_words(caption)
    return _characters(_reading(caption) if tokenizer == 'katakana' else caption)


def detokenize(tokens, tokenizer):
    """The text of tokens: words with spaces between them, characters without."""
    return (' ' if tokenizer == 'words' else '').join(tokens)


def split_text(text, tokenizer):
    """The opposite of `join`, for captions that come as text; a list of str."""
    parts = text.split()
    return parts if tokenizer == 'words' else list((' ' if tokenizer == 'characters' else '').join(parts))


def _characters(caption):
    return list(' '.join(filter(None, (''.join(tokenize_words(part)) for part in caption.split()))))


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
        raise InputError('--tokenizer katakana needs a dictionary of readings: scripts/setup.sh japanese (or pip '
                         'install '
                         'sudachipy sudachidict_core)') from e

def tokenize_words(caption):
    """Cuts a caption into words: lower case, punctuation dropped, every alphabet kept.

    It gives the tokens of Karpathy's files where those are known (all of Flickr8k's are equal). NLTK's tokenizer by a
    pattern needs no data to be downloaded, and the pattern is that of its `WordPunctTokenizer` without punctuation;
    but vowel signs and accents that are characters of their own belong to their words, as in Hindi.

    Args:
        caption (str): As it was written.

    Returns:
        list of str: Its words.
    """
    return _tokenizer().tokenize(unicodedata.normalize('NFC', caption).lower())


@functools.lru_cache(maxsize=1)
def _tokenizer():
    from nltk.tokenize import RegexpTokenizer  # only here: it brings 50 MB and half a second along
    marks = ''.join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith('M'))
    joiners = '\u200c\u200d'                            # within words of Persian, and of India's scripts
    return RegexpTokenizer(rf'(?:[^\W_]|[{marks}{joiners}])+')
