"""karpathy/neuraltalk: one pickle. Word 0 is `#START#` as an input, and the final `.` as an output; it has no word for
unknown words."""
from chainer_caption.errors import InputError
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.checkpoints.parts import make_bundle, named, read_arrays, word_list
from chainer_caption.models.imported import Imported
from chainer_caption.storage.pickle_files import read_pickle_file

NAME = 'karpathy/neuraltalk'
FILES = 'pickle',
DESCRIPTION = 'the .p'

_PARTS = 'model', 'params', 'wordtoix', 'ixtoword'
_START, _END = '#START#', '.'
_SIZES = {'feature_size': ('We', 0), 'embedding': ('We', 1), 'words': ('Ws', 0), 'hidden': ('Wd', 0)}


def _shapes(feature_size, embedding, words, hidden):
    return {'We': (feature_size, embedding), 'be': (1, embedding), 'Ws': (words, embedding),
            'WLSTM': (1 + embedding + hidden, 4 * hidden), 'Wd': (hidden, words), 'bd': (1, words)}


def read(path: str) -> Bundle:
    """The model, with an Imported."""
    value = read_pickle_file(path)
    parts = [part for part in map(value.get, _PARTS) if isinstance(part, dict)] if isinstance(value, dict) else []
    if len(parts) < len(_PARTS):
        raise InputError(f'{path}: a pickle without {", ".join(_PARTS)}; it is no checkpoint of neuraltalk')
    stored, params, numbers, words = parts
    generator = params.get('generator', 'lstm')
    if generator != 'lstm':
        raise InputError(f'{path}: its generator is {named(generator)}; only lstm can be imported')
    sizes, arrays = read_arrays(path, stored, _SIZES, _shapes)
    listed = word_list(path, words, sizes.pop('words'))
    if words.get(0) != _END or numbers != {**{word: i for i, word in words.items() if i}, _START: 0}:
        raise InputError(f'{path}: wordtoix and ixtoword do not have the same words')
    # One row for the bias, then those of the input and of the state before; gates i, f, o and the candidate.
    bias, lstm = arrays['WLSTM'][0], arrays['WLSTM'][1:].T
    arrays = {'word_vec/W': arrays['Ws'], 'image_vec/W': arrays['We'].T, 'image_vec/b': arrays['be'][0],
              'upward/W': lstm[:, :sizes['embedding']], 'upward/b': bias, 'lateral/W': lstm[:, sizes['embedding']:],
              'out_word/W': arrays['Wd'].T, 'out_word/b': arrays['bd'][0]}
    cell = 'lstm' if params.get('tanhC_version', 0) else 'lstm_linear_output'
    return make_bundle(path, listed, (0, None, None), (None, 0, None), Imported, {**sizes, 'cell': cell}, arrays)
