"""The nearest words of a word in a model's embedding: 'pony' and 'donkey' are near 'horse' (Vinyals et al. 2015,
section 4.3.6)."""
from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING

import numpy as np
from chainer.backends import cuda

from chainer_caption.data.vocabulary import SPECIAL, Vocabulary
from chainer_caption.errors import InputError

if TYPE_CHECKING:
    from chainer_caption.models.bundle import Bundle


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A word near another."""
    word: str
    cosine: float   #: The cosine of the angle between the two embeddings, in [-1, 1].
    count: int      #: The number of times the word occurs in the training captions.


def find_neighbours(bundle: Bundle, word: str, top: int = 10) -> list[Neighbour]:
    """The nearest words of a word, at most `top`, by the cosine of their embeddings, the nearest first; without the
    word itself and the special words. Raises InputError as `word_id` does."""
    if top < 1:
        raise InputError.of('top', top, 'must be at least 1')
    vocabulary = bundle.vocabulary
    vectors = cuda.to_cpu(bundle.model.word_vectors)
    here = word_id(vocabulary, word)
    # An embedding of zero has cosine 0 with every word.
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[here] / np.maximum(lengths * lengths[here], np.finfo(np.float32).tiny)
    order = np.argsort(-cosines, kind='stable')
    nearest = [int(i) for i in order if i != here and i >= len(SPECIAL)][:top]
    return [Neighbour(vocabulary.words[i], float(np.clip(cosines[i], -1, 1)), vocabulary.counts[i]) for i in nearest]


def word_id(vocabulary: Vocabulary, word: str) -> int:
    """The id of a word; where the vocabulary does not have it, an InputError names words of similar spelling."""
    here = int(vocabulary.encode([word])[0])
    if here >= len(SPECIAL):
        return here
    words = vocabulary.words[len(SPECIAL):]
    alike = difflib.get_close_matches(word, words, n=5) or difflib.get_close_matches(word.lower(), words, n=5)
    raise InputError(f'{word!r} is not among the {len(words):,} words of the model'
                     + (f'; it has {", ".join(alike)}' if alike else ''))
