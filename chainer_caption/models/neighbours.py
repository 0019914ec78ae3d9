"""Words that a model takes for alike: the nearest in its embedding.

Vinyals et al. 2015 (section 4.3.6) show that what a captioner learns of words puts 'pony' and 'donkey' beside 'horse'.
"""
import dataclasses
import difflib

import numpy as np
from chainer.backends import cuda

from chainer_caption.data.vocabulary import SPECIAL
from chainer_caption.errors import InputError


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A word beside another.

    Attributes:
        word (str): The word.
        cosine (float): Of the angle between the two embeddings, in [-1, 1].
        count (int): How often the word was seen in the training captions.
    """
    word: str
    cosine: float
    count: int


def find_neighbours(bundle, word, top=10):
    """The nearest words of a word, by the cosine of their embeddings.

    Args:
        bundle (Bundle): The model.
        word (str): A word of its vocabulary.
        top (int): How many neighbours, at most.

    Returns:
        list of Neighbour: The nearest first; without the word itself and the special words.

    Raises:
        InputError: The model does not know the word; the line names words that are spelt much alike.
    """
    if top < 1:
        raise InputError(f'--top {top}: must be at least 1')
    vocabulary = bundle.vocabulary
    vectors = cuda.to_cpu(bundle.model.word_vectors)
    here = word_id(vocabulary, word)
    # A word without a direction is as near to one word as to another.
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[here] / np.maximum(lengths * lengths[here], np.finfo(np.float32).tiny)
    order = np.argsort(-cosines, kind='stable')
    nearest = [int(i) for i in order if i != here and i >= len(SPECIAL)][:top]
    return [Neighbour(vocabulary.words[i], float(np.clip(cosines[i], -1, 1)), vocabulary.counts[i]) for i in nearest]


def word_id(vocabulary, word):
    """The id of a word.

    Raises:
        InputError: The vocabulary does not have it.
    """
    here = int(vocabulary.encode([word])[0])
    if here >= len(SPECIAL):
        return here
    words = vocabulary.words[len(SPECIAL):]
    alike = difflib.get_close_matches(word, words, n=5) or difflib.get_close_matches(word.lower(), words, n=5)
    raise InputError(f'{word!r} is not among the {len(words):,} words of the model'
                     + (f'; it has {", ".join(alike)}' if alike else ''))
