"""What the formats share: checked arrays, words in our order, and the model made of them."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from chainer.serializers import NpzDeserializer

from chainer_caption.data.vocabulary import SPECIAL, Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.models.architecture import Architecture
from chainer_caption.models.bundle import Bundle
from chainer_caption.storage.archives import ARCHIVE_ERRORS
from chainer_caption.storage.files import unreadable


def read_arrays(path: str, stored: Mapping[str, Any], sizes: Mapping[str, tuple[str, int]],
                shapes: Callable[..., Mapping[str, tuple[int, ...]]]) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """The sizes and the arrays of a checkpoint by name; the arrays are float32.

    Args:
        path: The file, for messages.
        stored: Its values by name: numpy.ndarray, or objects with `shape`, `dtype` and `read()`; others are ignored.
        sizes: Where each size of the model is: the name of an array and the number of its dimension.
        shapes: Takes the sizes by their names, and returns the shape of every array.

    Raises:
        InputError: One is missing, does not fit, is damaged, or holds values that are not finite.
    """
    found = {}
    for size, (name, axis) in sizes.items():
        shape = getattr(stored.get(name), 'shape', None)
        if shape is None or len(shape) != 2 or not shape[axis]:
            raise InputError(f'{path}: lacks the matrix {name}')
        found[size] = shape[axis]
    wanted, arrays = shapes(**found), {}
    for name, shape in wanted.items():
        array: Any = stored.get(name)
        if getattr(array, 'shape', None) != shape or array.dtype.kind != 'f':
            there = f'is {array.dtype} of shape {array.shape}' if getattr(array, 'shape', None) else 'is missing'
            raise InputError(f'{path}: {name} {there}; by the others it should be floats of shape {shape}')
    for name in wanted:
        try:
            with np.errstate(over='ignore', invalid='ignore'):      # what comes of it is refused
                array = stored[name]
                arrays[name] = np.asarray(array.read() if hasattr(array, 'read') else array, np.float32)
        except OSError as e:
            raise unreadable(path, e) from e
        except ARCHIVE_ERRORS as e:
            raise InputError(f'{path}: {name} is damaged ({e})') from e
        if not np.isfinite(arrays[name]).all():
            raise InputError(f'{path}: {name} holds values that are not finite')
    return found, arrays


def named(value: object) -> str:
    """Any value from a checkpoint, for messages."""
    return repr(value) if isinstance(value, str) else f'of the type {type(value).__name__}'


def word_list(path: str, words: Mapping[Any, Any], count: int) -> list[str]:
    """The words of a checkpoint, given by their numbers as text or bytes, in the order of the numbers; InputError where
    these are not those from 0 to `count - 1`, or the words are no text."""
    if words.keys() != {*range(count)}:
        raise InputError(f'{path}: words of {len(words):,} numbers, where the weights have {count:,}, from 0')
    found = [words[i].decode('latin-1') if isinstance(words[i], bytes) else words[i] for i in range(count)]
    if not all(isinstance(word, str) for word in found):
        raise InputError(f'{path}: some of its words are no text')
    return found


def make_bundle(path: str, words: Sequence[str], read: Sequence[int | None], outputs: Sequence[int | None],
                architecture: type[Architecture], configuration: Mapping[str, Any],
                arrays: Mapping[str, np.ndarray]) -> Bundle:
    """A bundle of a checkpoint's words and arrays, with the words in our order.

    Args:
        path, words: The file of the words, for messages, and they in the order of their numbers.
        read: The numbers of the words that are the inputs `<S>`, `</S>`, `<UNK>`; None for no word.
        outputs: The numbers of the words that are these as outputs; None is `unsaid`.
        architecture, configuration: ShowAndTell or Imported, and its arguments except the size of the vocabulary.
        arrays: By the architecture's names; rows of words in the order of `words`.
    """
    special = {*read, *outputs}
    others = sorted((i for i in range(len(words)) if i not in special), key=words.__getitem__)
    try:
        vocabulary = Vocabulary([*SPECIAL, *(words[i] for i in others)], [0] * (len(SPECIAL) + len(others)))
    except InputError as e:
        raise InputError(f'{path}: {e}') from e
    unsaid = [word for word, number in zip(SPECIAL, outputs, strict=True) if number is None]
    model = architecture.create({'vocabulary_size': len(vocabulary), **configuration,
                                 **({'unsaid': unsaid} if unsaid else {})}, initialW=0)
    of_words = {'word_vec/W': read, 'out_word/W': outputs, 'out_word/b': outputs}
    NpzDeserializer({**arrays, **{name: _rows(arrays[name], [*numbers, *others])
                                  for name, numbers in of_words.items()}}).load(model)
    model.cleargrads()                                  # Chainer makes them beforehand; training makes its own
    return Bundle(model, vocabulary)


def _rows(array: np.ndarray, numbers: Sequence[int | None]) -> np.ndarray:
    """Rows of an array by their numbers; zeros for None."""
    zero = np.zeros(array.shape[1:], np.float32)
    return np.array([zero if number is None else array[number] for number in numbers], np.float32)
