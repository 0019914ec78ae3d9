"""dsanno/chainer-image-caption: the HDF5 file that Chainer's `save_hdf5` writes of the chain, and its dataset, a pickle
with the words. The chain is that of ShowAndTell, so the model can be trained further."""
from chainer_caption.data.matlab import read_hdf5
from chainer_caption.data.vocabulary import SPECIAL
from chainer_caption.errors import InputError
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.checkpoints.parts import make_bundle, read_arrays, word_list
from chainer_caption.models.show_and_tell import ShowAndTell
from chainer_caption.storage.pickle_files import read_pickle_file
from chainer_caption.storage.serializers import to_arrays

NAME = 'dsanno/chainer-image-caption'
FILES = 'hdf5', 'pickle'
DESCRIPTION = 'the .model and the dataset.pkl'

_SIZES = {'feature_size': ('image_vec/W', 1), 'vocabulary_size': ('word_vec/W', 0), 'hidden': ('word_vec/W', 1)}


def _shapes(feature_size, vocabulary_size, hidden):
    # Without building a model of the sizes that a file claims: those of a small one, each size another number.
    sizes, model = {2: feature_size, 3: vocabulary_size, 5: hidden, 20: 4 * hidden}, ShowAndTell(2, 3, 5, initialW=0)
    return {name: tuple(sizes[size] for size in array.shape) for name, array in sorted(to_arrays(model).items())}


def read(path: str, dataset: str) -> Bundle:
    """The model, with a ShowAndTell."""
    value = read_pickle_file(dataset)
    ids = value.get('word_ids') if isinstance(value, dict) else None
    if not isinstance(ids, dict) or [ids.get(word) for word in SPECIAL] != [0, 1, 2]:
        raise InputError(f'{dataset}: a pickle without "word_ids" that begin with {", ".join(SPECIAL)}; it should be '
                         'the dataset that the model was trained on')
    sizes, arrays = read_arrays(path, read_hdf5(path, [*_shapes(1, 1, 1)]), _SIZES, _shapes)
    count = sizes.pop('vocabulary_size')
    words = word_list(dataset, {i: word for word, i in ids.items() if isinstance(i, int)}, count)
    return make_bundle(dataset, words, (0, 1, 2), (0, 1, 2), ShowAndTell, sizes, arrays)
