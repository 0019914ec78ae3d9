"""What the formats share: arrays that are checked before they are believed, words in our order, the model of them."""
import numpy as np
from chainer.serializers import NpzDeserializer

from chainer_caption.data.vocabulary import SPECIAL, Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.models.bundle import Bundle
from chainer_caption.storage.archives import ARCHIVE_ERRORS
from chainer_caption.storage.files import unreadable


def read_arrays(path, stored, sizes, shapes):
    """The arrays of a checkpoint.

    Args:
        path (str or os.PathLike): The file, to be named.
        stored (dict): What is there, by name: numpy.ndarray, or what is read by its `read()` and has `shape` and
            `dtype`; of other values nothing is believed.
        sizes (dict): Where to find each size of the model: a name, and which of the array's dimensions it is.
        shapes (callable): Takes the sizes by their names, and gives the name and shape of every array: a dict.

    Returns:
        tuple: `(sizes, arrays)`, dicts by name; the arrays are float32.

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
        array = stored.get(name)
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


def named(value):
    """What a checkpoint says, which may be anything, for a line that names it."""
    return repr(value) if isinstance(value, str) else f'of the type {type(value).__name__}'


def word_list(path, words, count):
    """The words of a checkpoint in the order of their numbers.

    Args:
        path (str or os.PathLike): The file, to be named.
        words (dict): Number to word, which is text or bytes.
        count (int): How many there should be, from 0.

    Raises:
        InputError: They are not so many, or not words.
    """
    if words.keys() != {*range(count)}:
        raise InputError(f'{path}: words of {len(words):,} numbers, where the weights have {count:,}, from 0')
    words = [words[i].decode('latin-1') if isinstance(words[i], bytes) else words[i] for i in range(count)]
    if not all(isinstance(word, str) for word in words):
        raise InputError(f'{path}: some of its words are no text')
    return words


def make_bundle(path, words, read, said, architecture, configuration, arrays):
    """A bundle of a checkpoint's words and arrays, with the words in our order.

    Args:
        path (str or os.PathLike): The file of the words, to be named.
        words (list of str): In the order of their numbers.
        read (sequence of int or None): Which of them is read as `<S>`, `</S>`, `<UNK>`; None where it never is.
        said (sequence of int or None): And which is said as that; None is `unsaid`.
        architecture (type): ShowAndTell or Imported.
        configuration (dict): Its arguments, but for the size of the vocabulary.
        arrays (dict): By the architecture's names; what is of words, in the order of `words`.
    """
    special = {*read, *said}
    others = sorted((i for i in range(len(words)) if i not in special), key=words.__getitem__)
    try:
        vocabulary = Vocabulary([*SPECIAL, *(words[i] for i in others)], [0] * (len(SPECIAL) + len(others)))
    except InputError as e:
        raise InputError(f'{path}: {e}') from e
    unsaid = [word for word, number in zip(SPECIAL, said, strict=True) if number is None]
    model = architecture(vocabulary_size=len(vocabulary), **configuration, **({'unsaid': unsaid} if unsaid else {}),
                         initialW=0)
    of_words = {'word_vec/W': read, 'out_word/W': said, 'out_word/b': said}
    NpzDeserializer({**arrays, **{name: _rows(arrays[name], [*numbers, *others])
                                  for name, numbers in of_words.items()}}).load(model)
    model.cleargrads()                                  # Chainer makes them beforehand; training makes its own
    return Bundle(model, vocabulary)


def _rows(array, numbers):
    """Rows of an array by their numbers; zeros for None."""
    rows = np.zeros((len(numbers), *array.shape[1:]), np.float32)
    there = [place for place, number in enumerate(numbers) if number is not None]
    rows[there] = array[[numbers[place] for place in there]]
    return rows
