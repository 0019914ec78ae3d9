"""The model directory: everything a trained captioner is, in files that can be read and cannot be run.

`config.json` (sizes, dropout, where the features came from, how it was trained, library versions), `vocabulary.json`
(words in id order, and their counts), `weights.npz` (the layout of Chainer's `save_npz`), and from its training
`log.json` and snapshots. There is no pickle in any of them, and none is read: Chainer's `load_npz` would run one,
and its serializer would write `None` as one.
"""
import pathlib
import platform
import sys

import chainer
import numpy as np
from chainer.serializers import NpzDeserializer

from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.models import ShowAndTell
from chainer_caption.storage.archives import npz_shapes, read_npz
from chainer_caption.storage.files import read_json, replacing, sync_folder, unwritable, write_json, write_npz
from chainer_caption.storage.serializers import to_arrays

CONFIG, VOCABULARY, WEIGHTS, LOG = 'config.json', 'vocabulary.json', 'weights.npz', 'log.json'
SNAPSHOTS = 'snapshot-*.npz'
FORMAT = 1

# More than any model has, and little enough to be multiplied and printed.
_MAX_SIZE = 2 ** 31


class Bundle:
    """A model with what it needs to be used.

    Attributes:
        model (ShowAndTell): The network.
        vocabulary (Vocabulary): Its words.
        origin (dict or None): The `network` and `profile` that made the features it was trained on; None if unknown.
        training (dict): How it was trained; for the record, and to compare with when training is resumed.
    """

    def __init__(self, model, vocabulary, origin=None, training=None):
        self.model = model
        self.vocabulary = vocabulary
        self.origin = origin
        self.training = training or {}

    def save(self, folder):
        """Writes the model directory: configuration, vocabulary and weights.

        Raises:
            InputError: It cannot be written.
        """
        folder = pathlib.Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.save_config(folder)
            write_json(folder / VOCABULARY, self.vocabulary.to_json(), indent=None)
            self.save_weights(folder)
        except OSError as e:
            raise unwritable(e.filename or folder, e) from e

    def save_config(self, folder):
        model = self.model
        write_json(pathlib.Path(folder) / CONFIG, {
            'format': FORMAT, 'model': 'show_and_tell', 'hidden': model.hidden, 'feature_size': model.feature_size,
            'vocabulary_size': model.vocabulary_size, 'dropout': model.dropout, 'features': self.origin,
            'training': self.training, 'versions': versions()})

    def save_weights(self, folder):
        write_npz(pathlib.Path(folder) / WEIGHTS, to_arrays(self.model))

    @classmethod
    def load(cls, folder):
        """Reads a model directory; the model is on the CPU.

        Raises:
            InputError: A file is missing or damaged, or they do not belong together; the line says which.
        """
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise InputError(f'{folder}: no such model directory' if not folder.exists() else
                             f'{folder}: not a model directory; that is a folder written by train.py')
        for name in (CONFIG, VOCABULARY, WEIGHTS):
            if not (folder / name).exists():
                begun = any(folder.glob(SNAPSHOTS))
                raise InputError(f'{folder}: lacks {name}, ' + (
                    'because its training was stopped before it had a model; train.py --resume goes on with it'
                    if begun else 'so it is no complete model directory; train it again'))
        config = read_json(folder / CONFIG)
        sizes = _check_config(config, folder / CONFIG)
        vocabulary = Vocabulary.from_json(read_json(folder / VOCABULARY), folder / VOCABULARY)
        if len(vocabulary) != sizes['vocabulary_size']:
            raise InputError(f'{folder / VOCABULARY}: {len(vocabulary)} words, but config.json says '
                             f'{sizes["vocabulary_size"]}; the files are of different models')
        # The weights' own shapes are looked at first: no configuration makes more memory be taken than there are
        # weights in the file.
        check_shapes(folder / WEIGHTS, **sizes)
        arrays = read_weights(folder / WEIGHTS)
        model = ShowAndTell(**sizes, dropout=config['dropout'], seed=0)
        NpzDeserializer(arrays).load(model)
        model.cleargrads()                              # Chainer makes them beforehand; training makes its own
        return cls(model, vocabulary, _origin(config), config.get('training'))


def versions():
    return {'python': platform.python_version(), 'chainer': chainer.__version__, 'numpy': np.__version__,
            'cupy': getattr(sys.modules.get('cupy'), '__version__', None)}


def _check_config(config, path):
    if not isinstance(config, dict) or config.get('format') != FORMAT or config.get('model') != 'show_and_tell':
        raise InputError(f'{path}: not the configuration of a Show and Tell model of format {FORMAT}')
    sizes = {key: config.get(key) for key in ('feature_size', 'vocabulary_size', 'hidden')}
    for key, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _MAX_SIZE:
            raise InputError(f'{path}: "{key}" should be a positive whole number, not {value!r}')
    dropout = config.get('dropout')
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(f'{path}: "dropout" should be a number from 0 to below 1, not {dropout!r}')
    origin = config.get('features')
    if origin is not None and not (isinstance(origin, dict) and all(
            isinstance(origin.get(key), str) for key in ('network', 'profile'))):
        raise InputError(f'{path}: "features" should name a network and a profile, or be null')
    if not isinstance(config.get('training', {}), dict):
        raise InputError(f'{path}: "training" should be an object')
    return sizes


def _origin(config):
    # Nothing else that stands there is passed on.
    origin = config.get('features')
    return origin and {key: origin[key] for key in ('network', 'profile')}


def weight_shapes(feature_size, vocabulary_size, hidden):
    """The names and shapes in `weights.npz`, as the seed's chain has them."""
    return {'word_vec/W': (vocabulary_size, hidden), 'image_vec/W': (hidden, feature_size), 'image_vec/b': (hidden,),
            'lstm/upward/W': (4 * hidden, hidden), 'lstm/upward/b': (4 * hidden,),
            'lstm/lateral/W': (4 * hidden, hidden), 'out_word/W': (vocabulary_size, hidden),
            'out_word/b': (vocabulary_size,)}


def check_shapes(path, feature_size, vocabulary_size, hidden):
    """Checks that a weights file holds the arrays of a model of these sizes, before any of them is read.

    Raises:
        InputError: It does not; the line names the first array that is missing or does not fit.
    """
    there = npz_shapes(path)
    for name, shape in weight_shapes(feature_size, vocabulary_size, hidden).items():
        if name not in there:
            raise InputError(f'{path}: lacks {name}; these are not the weights of a Show and Tell model')
        if there[name][0] != shape or there[name][1].kind != 'f':
            raise InputError(f'{path}: {name} is {there[name][1]} of shape {there[name][0]}, '
                             f'but the model needs floats of shape {shape}')


def read_weights(path):
    """The arrays of a `weights.npz` whose shapes have been checked.

    Raises:
        InputError: It is damaged, or a value is not finite.
    """
    arrays = read_npz(path)
    for name, array in arrays.items():
        if array.dtype.kind == 'f' and not np.isfinite(array).all():
            raise InputError(f'{path}: {name} holds values that are not finite')
    return arrays


def check_new(folder, resume, overwrite):
    """Checks that a model may be written into a folder, before hours are spent on it.

    Raises:
        InputError: There is a model already and neither resuming nor overwriting was asked for, or the folder cannot
            be written.
    """
    folder = pathlib.Path(folder)
    if (folder / CONFIG).exists() and not (resume or overwrite):
        raise InputError(f'{folder}: there is a model in it already; --resume goes on with it, --overwrite replaces it')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / '.writable') as f:
            f.write(b'')
        (folder / '.writable').unlink()
    except OSError as e:
        raise unwritable(folder, e) from e


def clear(folder, others=(), keep_model=False):
    """Deletes what an earlier training has left in a folder.

    At no moment does anything of the old model stand beside anything of the new: without its configuration, which
    goes first and comes last, a folder is no model.

    Args:
        folder (pathlib.Path): The folder.
        others (sequence of str): Patterns of files that go with the log and the snapshots.
        keep_model (bool): Whether only those go.
    """
    if not keep_model:
        (folder / CONFIG).unlink(missing_ok=True)
        sync_folder(folder)
        for name in (WEIGHTS, VOCABULARY):
            (folder / name).unlink(missing_ok=True)
    for pattern in (LOG, SNAPSHOTS, *others):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
