"""dsanno/chainer-image-caption: the HDF5 file that Chainer's `save_hdf5` makes of the chain, and its dataset, a pickle
with the words. The chain is ShowAndTell's own, so the model can be trained on."""
from chainer_caption.data.matlab import read_hdf5
from chainer_caption.data.vocabulary import SPECIAL
from chainer_caption.errors import InputError
from chainer_caption.models.checkpoints.parts import make_bundle, read_arrays, word_list
from chainer_caption.models.show_and_tell import ShowAndTell
from chainer_caption.storage.pickle_files import read_pickle_file

NAME = 'dsanno/chainer-image-caption'
FILES = 'hdf5', 'pickle'
DESCRIPTION = 'the .model and the dataset.pkl'

_SIZES = {'feature_size': ('image_vec/W', 1), 'vocabulary_size': ('word_vec/W', 0), 'hidden': ('word_vec/W', 1)}


def read(path, dataset):
    """The model, a Bundle with a ShowAndTell."""
    value = read_pickle_file(dataset)
    ids = value.get('word_ids') if isinstance(value, dict) else None
    if not isinstance(ids, dict) or [ids.get(word) for word in SPECIAL] != [0, 1, 2]:
        raise InputError(f'{dataset}: a pickle without "word_ids" that begin with {", ".join(SPECIAL)}; it should be '
                         'the dataset that the model was trained on')
    sizes, arrays = read_arrays(path, read_hdf5(path, [*ShowAndTell.weight_shapes(1, 1, 1)]), _SIZES,
                                ShowAndTell.weight_shapes)
    count = sizes.pop('vocabulary_size')
    words = word_list(dataset, {i: word for word, i in ids.items() if isinstance(i, int)}, count)
    return make_bundle(dataset, words, (0, 1, 2), (0, 1, 2), ShowAndTell, sizes, arrays)
