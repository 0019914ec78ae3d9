"""Tokenization of captions: words, characters, or the characters of their reading in katakana."""
from __future__ import annotations

import functools
import sys
import unicodedata
from typing import Any

from chainer_caption.errors import InputError

_SHORT = 64     # characters: the words of longer parts are not remembered, so that the memory is bounded


def tokenize(caption: str, tokenizer: str) -> list[str]:
    """Splits a caption, as it was written, into tokens.

    The tokenizers are `captions.TOKENIZERS`. `'words'`: see `tokenize_words`. `'characters'`, for languages without
    spaces: each letter, digit and mark, in lower case, and ' ' for the space between them; punctuation is dropped.
    `'katakana'`: the characters of a Japanese caption's reading; an `InputError` where its dictionary is missing.
    """
    if tokenizer == 'words':
        return tokenize_words(caption)
    if tokenizer == 'katakana':
        # Punctuation and space are left out: their readings are the words for them.
        caption = ''.join(morpheme.reading_form() for morpheme in _analyser().tokenize(caption.encode(
            errors='replace').decode()) if any(map(str.isalnum, morpheme.surface())))
    return list(' '.join(filter(None, (''.join(tokenize_words(part)) for part in caption.split()))))


def detokenize(tokens: list[str], tokenizer: str) -> str:
    """The text of tokens: words with spaces between them, characters without."""
    return (' ' if tokenizer == 'words' else '').join(tokens)


def split_text(text: str, tokenizer: str) -> list[str]:
    """The opposite of `detokenize`: the tokens of a caption that is tokenized already."""
    parts = text.split()
    return parts if tokenizer == 'words' else list((' ' if tokenizer == 'characters' else '').join(parts))


@functools.lru_cache(maxsize=1)
def _analyser() -> Any:
    try:
        from sudachipy import Dictionary
        return Dictionary(dict='core').tokenizer()
    except ImportError as e:
        raise InputError.of('tokenizer', 'katakana', 'needs a dictionary of readings; scripts/setup.sh japanese (or '
                            'pip install sudachipy sudachidict_core)') from e


def tokenize_words(caption: str) -> list[str]:
    """Splits a caption into words: lower case, without punctuation, in any alphabet.

    The tokens equal those of Karpathy's files (all of Flickr8k's). The pattern is that of NLTK's `WordPunctTokenizer`
    without punctuation; combining vowel signs and accents belong to their words, as in Hindi.
    """
    # Neither a word, nor lower case, nor NFC depends on anything beyond a space, and the same parts come again.
    return [word for part in caption.split()
            for word in (_words_of if len(part) <= _SHORT else _words_of.__wrapped__)(part)]


@functools.lru_cache(maxsize=2 ** 16)
def _words_of(part: str) -> tuple[str, ...]:
    return tuple(_tokenizer().tokenize(unicodedata.normalize('NFC', part).lower()))


@functools.lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from nltk.tokenize import RegexpTokenizer  # only here: it takes 50 MB and half a second
    marks = ''.join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c).startswith('M'))
    joiners = '\u200c\u200d'                            # within words of Persian, and of India's scripts
    return RegexpTokenizer(rf'(?:[^\W_]|[{marks}{joiners}])+')
