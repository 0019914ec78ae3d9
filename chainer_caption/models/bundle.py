"""The model directory: everything a trained captioner is, in files that can be read and cannot be run.

`config.json` (sizes, dropout, where the features came from, how it was trained, library versions), `vocabulary.json`
(words in id order, and their counts), `weights.npz` (the layout of Chainer's `save_npz`), where the image encoder has
learned together with the model its `encoder.npz` in the same layout, and from its training `log.json` and snapshots.
There is no pickle in any of them, and none is read: Chainer's `load_npz` would run one, and its serializer would write
`None` as one.
"""
import itertools
import math
import pathlib
import platform
import sys

import chainer
import numpy as np
from chainer.serializers import NpzDeserializer

from chainer_caption.data.captions import checked_tokenizer
from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import fine_tuned_name, is_fine_tuned
from chainer_caption.models import ARCHITECTURES, fine_tuned_encoder
from chainer_caption.storage.archives import npz_shapes, read_npz
from chainer_caption.storage.files import (
    atomic_write,
    read_json,
    sample_digest,
    sync_folder,
    unwritable,
    write_json,
    write_npz,
)
from chainer_caption.storage.legacy import current_array_names, current_keys
from chainer_caption.storage.serializers import to_arrays

CONFIG, VOCABULARY, WEIGHTS, LOG = 'config.json', 'vocabulary.json', 'weights.npz', 'log.json'
SNAPSHOTS = 'snapshot-*.npz'
FORMAT = 1

# What `config.json` may say under `search`: the type and the least value of each.
_SEARCH = {'width': (int, 1), 'length_normalization': (int | float, 0)}


class Bundle:
    """A model with what it needs to be used.

    Attributes:
        model (Architecture): The encoder.
        vocabulary (Vocabulary): Its words.
        provenance (dict or None): The `encoder` and `preprocessing` that made the features it was trained on; None if
            unknown.
        training (dict): How it was trained; for the record, and to compare with when training is resumed.
        search (dict): What to caption with where nothing else is asked for, as far as the model says it: `width` and
            `length_normalization`, as `BeamSearch` takes them. Training writes none.
        tokenizer (str): What its words are, one of `data.captions.TOKENIZERS`.
        encoder (chainer.Chain or None): The image encoder that learns together with the model, which is saved with it.
        encoder_path (pathlib.Path or None): The weights of the image encoder that was trained with a loaded model.
    """

    def __init__(self, model, vocabulary, provenance=None, training=None, search=None, tokenizer='words', encoder=None,
                 encoder_path=None):
        self.model = model
        self.vocabulary = vocabulary
        self.provenance = provenance
        self.training = training or {}
        self.search = search or {}
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.encoder_path = encoder_path

    def save(self, folder, dtype=None):
        """Writes the model directory: configuration, vocabulary and weights.

        Args:
            folder (str or os.PathLike): Is made where it is not there.
            dtype (numpy.dtype or None): Of the weights in the file; None writes them as they are. float16 halves it.

        Raises:
            InputError: It cannot be written.
        """
        folder = pathlib.Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.save_config(folder)
            write_json(folder / VOCABULARY, self.vocabulary.to_json(), indent=None)
            self.save_weights(folder, dtype)
        except OSError as e:
            raise unwritable(e.filename or folder, e) from e

    def save_config(self, folder):
        search = {'search': self.search} if self.search else {}
        write_json(pathlib.Path(folder) / CONFIG, {
            'format': FORMAT, 'model': self.model.architecture, **self.model.configuration, 'tokenizer': self.tokenizer,
            'features': self.provenance, 'reads': getattr(self.model, 'reads', 'vectors'), **search,
            'training': self.training, 'versions': versions()})

    def params(self):
        """Everything that may have learned: the parameters of the model, and those of an encoder of its own."""
        return itertools.chain(self.model.params(), self.encoder.params() if self.encoder is not None else ())

    def save_weights(self, folder, dtype=None):
        """Writes the weights, and with them an encoder of the model's own."""
        path = pathlib.Path(folder) / WEIGHTS
        arrays = {name: array.astype(dtype or array.dtype, copy=False)
                  for name, array in to_arrays(self.model).items()}
        if self.encoder is None:
            write_npz(path, arrays)
        else:
            fine_tuned_encoder.write_pair(path, arrays, to_arrays(self.encoder))

    def save_encoder(self, folder):
        """Writes an encoder of the model's own, as it is, where there are no weights yet that belong to it."""
        write_npz(pathlib.Path(folder) / fine_tuned_encoder.ENCODER, to_arrays(self.encoder))

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
                    if begun else 'so it is no model directory; name the folder that train wrote (-o MODEL)'))
        config = current_keys(read_json(folder / CONFIG))
        architecture = _check_config(config, folder / CONFIG)
        configuration = architecture.read_configuration(config, folder / CONFIG)
        vocabulary = Vocabulary.from_json(read_json(folder / VOCABULARY), folder / VOCABULARY)
        if len(vocabulary) != configuration['vocabulary_size']:
            raise InputError(f'{folder / VOCABULARY}: {len(vocabulary)} words, but config.json says '
                             f'{configuration["vocabulary_size"]}; the files are of different models')
        # The weights' own shapes are looked at first: no configuration makes more memory be taken than there are
        # weights in the file.
        check_shapes(folder / WEIGHTS, architecture, **architecture.shaping(configuration))
        arrays = read_weights(folder / WEIGHTS)
        model = architecture(**configuration, initialW=0)
        NpzDeserializer(arrays).load(model)
        model.cleargrads()                              # Chainer makes them beforehand; training makes its own
        provenance, path = _provenance(config), None
        if provenance is not None and is_fine_tuned(provenance['encoder']):
            path = fine_tuned_encoder.find(folder / WEIGHTS, arrays.get(fine_tuned_encoder.DIGEST))
            if path is not None:
                provenance['encoder'] = fine_tuned_name(provenance['encoder'], sample_digest(path))
        return cls(model, vocabulary, provenance, config.get('training'), config.get('search'),
                   checked_tokenizer(config, folder / CONFIG), encoder_path=path)


def read_provenance(folder):
    """What the configuration of a model directory says of where its features came from: a dict or None.

    Raises:
        InputError: There is no sound configuration.
    """
    config = current_keys(read_json(folder / CONFIG))
    _check_config(config, folder / CONFIG)
    return _provenance(config)


def versions():
    return {'python': platform.python_version(), 'chainer': chainer.__version__, 'numpy': np.__version__,
            'cupy': getattr(sys.modules.get('cupy'), '__version__', None)}


def _check_config(config, path):
    """Checks what is not the architecture's own, and gives the architecture."""
    if not isinstance(config, dict) or config.get('format') != FORMAT:
        raise InputError(f'{path}: not the configuration of a captioning model of format {FORMAT}')
    if not isinstance(config.get('model'), str) or config['model'] not in ARCHITECTURES:
        raise InputError(f'{path}: a model of the architecture {config.get("model")!r}; known are '
                         f'{", ".join(ARCHITECTURES)}')
    reads, wanted = config.get('reads', 'vectors'), ARCHITECTURES[config['model']].reads
    if reads != wanted:
        raise InputError(f'{path}: "reads" is {reads!r}, but the architecture {config["model"]} reads {wanted}')
    provenance = config.get('features')
    if provenance is not None and not (isinstance(provenance, dict) and all(
            isinstance(provenance.get(key), str) for key in ('encoder', 'preprocessing'))):
        raise InputError(f'{path}: "features" should name an encoder and a preprocessing, or be null')
    if not isinstance(config.get('training', {}), dict):
        raise InputError(f'{path}: "training" should be an object')
    _check_search(config.get('search', {}), path)
    return ARCHITECTURES[config['model']]


def _check_search(search, path):
    if not isinstance(search, dict) or not search.keys() <= _SEARCH.keys():
        raise InputError(f'{path}: "search" should be an object with {" and ".join(_SEARCH)}')
    for name, value in search.items():
        kind, least = _SEARCH[name]
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < math.inf:
            raise InputError(f'{path}: "{name}" should be a {"whole " if kind is int else ""}number from {least}, not '
                             f'{value!r}')


def _provenance(config):
    # Nothing else that stands there is passed on.
    provenance = config.get('features')
    return provenance and {key: provenance[key] for key in ('encoder', 'preprocessing')}


def check_shapes(path, architecture, **sizes):
    """Checks that a weights file holds the arrays of a model of these sizes, before any of them is read.

    Raises:
        InputError: It does not; the line names the first array that is missing or does not fit.
    """
    there = npz_shapes(path)
    for name, shape in architecture.weight_shapes(**sizes).items():
        if name not in there:
            raise InputError(f'{path}: lacks {name}; these are not the weights of a {architecture.architecture} model')
        if there[name][0] != shape or there[name][1].kind != 'f':
            raise InputError(f'{path}: {name} is {there[name][1]} of shape {there[name][0]}, '
                             f'but the model needs floats of shape {shape}')


def read_weights(path):
    """The arrays of a `weights.npz` whose shapes have been checked.

    Raises:
        InputError: It is damaged, or a value is not finite.
    """
    arrays = current_array_names(read_npz(path))
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
        with atomic_write(folder / '.writable') as f:
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
        for name in (WEIGHTS, VOCABULARY, fine_tuned_encoder.ENCODER, fine_tuned_encoder.NEXT):
            (folder / name).unlink(missing_ok=True)
    for pattern in (LOG, SNAPSHOTS, *others):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
