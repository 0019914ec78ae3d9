"""The model directory: a trained captioner in files that hold data only.

`config.json` (architecture, its arguments, feature provenance, training settings, library versions), `vocabulary.json`
(words in id order, and their counts), `weights.npz` (the layout of Chainer's `save_npz`), `encoder.npz` in the same
layout if the image encoder was fine-tuned, `familiarity.npz` (see `models.familiarity`), and from training `log.json`
and snapshots. No pickle is written or read: Chainer's `load_npz` would execute one."""
from __future__ import annotations

import contextlib
import itertools
import math
import pathlib
import platform
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import chainer
import numpy as np
from chainer.serializers import NpzDeserializer

from chainer_caption.data.captions import checked_tokenizer
from chainer_caption.data.vocabulary import Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import fine_tuned_name, is_fine_tuned
from chainer_caption.models import fine_tuned_encoder
from chainer_caption.models.architecture import Architecture, find_architecture
from chainer_caption.models.familiarity import FAMILIARITY, Familiarity
from chainer_caption.storage import files
from chainer_caption.storage.archives import npz_shapes, read_npz
from chainer_caption.storage.files import Path, read_json, unwritable, write_json, write_npz
from chainer_caption.storage.legacy import current_array_names, current_keys
from chainer_caption.storage.serializers import to_arrays

CONFIG, VOCABULARY, WEIGHTS, LOG = 'config.json', 'vocabulary.json', 'weights.npz', 'log.json'
SNAPSHOTS = 'snapshot-*.npz'
FORMAT = 1

_ROOM = 2 ** 18     # Numbers by which a model may exceed its weights file, so that an array missing there can be named.
_one_at_a_time = threading.Lock()

# What `config.json` may have under `search`: the type and the least value of each.
_SEARCH = {'width': (int, 1), 'length_normalization': (int | float, 0)}


class Bundle:
    """A captioning model with what it needs to be used.

    Attributes:
        provenance: The `encoder` and `preprocessing` of the features it was trained on; None if unknown.
        training: The settings of its training, with which a resumed training is compared.
        search: Default search options, `width` and `length_normalization` as for `BeamSearch`. Training writes none.
        tokenizer: The tokenizer of its captions, one of `data.captions.TOKENIZERS`.
        encoder: The image encoder that is fine-tuned and saved with the model.
        encoder_path: The weights of the fine-tuned image encoder of a loaded model.
        familiarity: Statistics of the training images; None for models of older versions and imported ones.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, provenance: dict[str, str] | None = None,
                 training: dict[str, Any] | None = None, search: dict[str, Any] | None = None,
                 tokenizer: str = 'words', encoder: Any = None, encoder_path: pathlib.Path | None = None,
                 familiarity: Familiarity | None = None) -> None:
        self.model, self.vocabulary, self.tokenizer, self.provenance = model, vocabulary, tokenizer, provenance
        self.training, self.search = training or {}, search or {}
        self.encoder, self.encoder_path, self.familiarity = encoder, encoder_path, familiarity

    def save(self, folder: Path, dtype: Any = None) -> None:
        """Writes the model directory, which is created if necessary: configuration, vocabulary and weights, the latter
        in a dtype, or as they are; float16 halves the file. InputError where it cannot be written, or the architecture
        is not registered."""
        folder = pathlib.Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAMILIARITY).unlink(missing_ok=True)      # never beside the weights of another model
            self.save_config(folder)
            write_json(folder / VOCABULARY, self.vocabulary.to_json(), indent=None)
            self.save_weights(folder, dtype)
            self.save_familiarity(folder)
        except OSError as e:
            raise unwritable(e.filename or folder, e) from e

    def save_config(self, folder: Path) -> None:
        """Writes `config.json`."""
        if self.model.architecture is None:
            raise InputError(f'{type(self.model).__name__}: register the architecture first (@register_architecture)')
        write_json(pathlib.Path(folder) / CONFIG, {
            'format': FORMAT, 'model': self.model.architecture, **self.model.configuration, 'tokenizer': self.tokenizer,
            'features': self.provenance, 'reads': getattr(self.model, 'reads', 'vectors'),
            **({'search': self.search} if self.search else {}), 'training': self.training, 'versions': versions()})

    def params(self) -> Iterator[Any]:
        """The parameters of the model and of its fine-tuned encoder."""
        return itertools.chain(self.model.params(), self.encoder.params() if self.encoder is not None else ())

    def save_weights(self, folder: Path, dtype: Any = None) -> None:
        """Writes the weights, and with them the fine-tuned encoder."""
        path = pathlib.Path(folder) / WEIGHTS
        arrays = {name: array.astype(dtype or array.dtype, copy=False) for name, array in to_arrays(self.model).items()}
        if self.encoder is None:
            write_npz(path, arrays)
        else:
            fine_tuned_encoder.write_pair(path, arrays, to_arrays(self.encoder))

    def save_encoder(self, folder: Path) -> None:
        """Writes the fine-tuned encoder, before there are weights that belong to it."""
        write_npz(pathlib.Path(folder) / fine_tuned_encoder.ENCODER, to_arrays(self.encoder))

    def save_familiarity(self, folder: Path) -> None:
        """Writes the statistics of the training images, if there are any."""
        if self.familiarity is not None:
            self.familiarity.save(pathlib.Path(folder) / FAMILIARITY)

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Reads a model directory, to the CPU; InputError where files are missing, damaged or of different models."""
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise InputError(f'{folder}: no such model directory' if not folder.exists() else
                             f'{folder}: not a model directory; that is a folder written by train.py')
        for name in (CONFIG, VOCABULARY, WEIGHTS):
            if not (folder / name).exists():
                raise InputError(f'{folder}: lacks {name}, ' + (
                    'because its training was stopped before it had a model; --resume continues it'
                    if any(folder.glob(SNAPSHOTS)) else
                    'so it is no model directory; name the folder that train wrote (-o MODEL)'))
        config = current_keys(read_json(folder / CONFIG))
        architecture = _check_config(config, folder / CONFIG)
        configuration = architecture.read_configuration(config, folder / CONFIG)
        vocabulary = Vocabulary.from_json(read_json(folder / VOCABULARY), folder / VOCABULARY)
        if len(vocabulary) != configuration['vocabulary_size']:
            raise InputError(f'{folder / VOCABULARY}: {len(vocabulary)} words, but config.json says '
                             f'{configuration["vocabulary_size"]}; the files are of different models')
        model = _build(folder / WEIGHTS, architecture, configuration)
        arrays = read_weights(folder / WEIGHTS)
        try:
            NpzDeserializer(arrays).load(model)
        except (KeyError, TypeError, ValueError) as e:  # persistent values of an architecture of one's own
            raise InputError(f'{folder / WEIGHTS}: does not fit {architecture.__name__} ({e})') from e
        model.cleargrads()                              # Chainer makes them beforehand; training makes its own
        provenance, path = _provenance(config), None
        if provenance is not None and is_fine_tuned(provenance['encoder']):
            path = fine_tuned_encoder.find(folder / WEIGHTS, arrays.get(fine_tuned_encoder.DIGEST))
            if path is not None:
                provenance['encoder'] = fine_tuned_name(provenance['encoder'], files.sample_digest(path))
        familiarity = Familiarity.load(folder / FAMILIARITY, model.feature_size) \
            if (folder / FAMILIARITY).exists() else None
        return cls(model, vocabulary, provenance, config.get('training'), config.get('search'),
                   checked_tokenizer(config, folder / CONFIG), encoder_path=path, familiarity=familiarity)


def read_provenance(folder: Path) -> dict[str, str] | None:
    """The feature provenance in a model directory's configuration; InputError where that is missing or damaged."""
    config = current_keys(read_json(path := pathlib.Path(folder) / CONFIG))
    _check_config(config, path)
    return _provenance(config)


def versions() -> dict[str, str | None]:
    """The versions of Python and the libraries."""
    return {'python': platform.python_version(), 'chainer': chainer.__version__, 'numpy': np.__version__,
            'cupy': getattr(sys.modules.get('cupy'), '__version__', None)}


def _check_config(config: Any, path: pathlib.Path) -> type[Architecture]:
    """Checks what does not depend on the architecture, which is returned."""
    if not isinstance(config, dict) or config.get('format') != FORMAT:
        raise InputError(f'{path}: not the configuration of a captioning model of format {FORMAT}')
    try:
        architecture = find_architecture(config.get('model'))
    except InputError as e:
        raise InputError(f'{path}: {e}') from e
    if (reads := config.get('reads', 'vectors')) != architecture.reads:
        raise InputError(f'{path}: "reads" is {reads!r}, but the architecture {config["model"]} reads '
                         f'{architecture.reads}')
    provenance = config.get('features')
    if provenance is not None and not (isinstance(provenance, dict) and all(
            isinstance(provenance.get(key), str) for key in ('encoder', 'preprocessing'))):
        raise InputError(f'{path}: "features" should name an encoder and a preprocessing, or be null')
    if not isinstance(config.get('training', {}), dict):
        raise InputError(f'{path}: "training" should be an object')
    search = config.get('search', {})
    if not isinstance(search, dict) or not search.keys() <= _SEARCH.keys():
        raise InputError(f'{path}: "search" should be an object with {" and ".join(_SEARCH)}')
    for name, value in search.items():
        kind, least = _SEARCH[name]
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < math.inf:
            raise InputError(f'{path}: "{name}" should be a {"whole " if kind is int else ""}number from {least}, not '
                             f'{value!r}')
    return architecture


def _provenance(config: dict[str, Any]) -> dict[str, str] | None:
    provenance = config.get('features')
    return provenance and {key: provenance[key] for key in ('encoder', 'preprocessing')}


def check_shapes(path: Path, architecture: type[Architecture], **configuration: Any) -> None:
    """Checks that a weights file holds the arrays of a model of a configuration, before any of them is read; if not, an
    InputError names the first array that is missing or does not fit."""
    _build(path, architecture, configuration)


def _build(path: Path, architecture: type[Architecture], configuration: dict[str, Any]) -> Architecture:
    """A model of a configuration, with no weights yet, if those in a file fit it."""
    stored = npz_shapes(path)
    # A configuration may claim any size. The model takes no more memory than the arrays in the file do.
    with _limited_parameters(path, sum(math.prod(shape) for shape, _ in stored.values()) + _ROOM):
        try:
            model = architecture.create(configuration, initialW=0)
        except (TypeError, ValueError, ArithmeticError, MemoryError) as e:
            raise e if isinstance(e, InputError) else InputError(
                f'{path}: {architecture.__name__} cannot be made from config.json ({e})') from e
    for path_of_link, param in sorted(model.namedparams()):
        name = path_of_link.lstrip('/')
        if name not in stored:
            raise InputError(f'{path}: lacks {name}; these are not the weights of a {architecture.architecture} model')
        shape, dtype = stored[name]
        if shape != param.shape or dtype.kind != 'f':
            raise InputError(f'{path}: {name} is {dtype} of shape {shape}, but the model needs floats of shape '
                             f'{param.shape}')
    return model


@contextlib.contextmanager
def _limited_parameters(path: Path, limit: int) -> Iterator[None]:
    """Context in which this thread makes parameters of no more than so many numbers together."""
    generate, thread, left = chainer.initializers.generate_array, threading.get_ident(), limit

    def counted(initializer: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if threading.get_ident() == thread and not isinstance(initializer, chainer.initializers.NaN):   # a gradient
            left -= math.prod(shape) if isinstance(shape, tuple) else int(shape)
            if left < 0:
                raise InputError(f'{path}: holds fewer numbers than an array of shape {shape}, which a model of '
                                 'config.json has; the two files are of different models')
        return generate(initializer, shape, *args, **kwargs)
    with _one_at_a_time:
        chainer.initializers.generate_array = counted
        try:
            yield
        finally:
            chainer.initializers.generate_array = generate


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `weights.npz` whose shapes have been checked; InputError where it is damaged, or a value is not
    finite."""
    arrays = current_array_names(read_npz(path))
    for name, array in arrays.items():
        if array.dtype.kind == 'f' and not np.isfinite(array).all():
            raise InputError(f'{path}: {name} holds values that are not finite')
    return arrays


def check_new(folder: Path, resume: bool, overwrite: bool) -> None:
    """Checks that a model may be written into a folder, before it is trained; InputError where it contains a model and
    neither `resume` nor `overwrite` is set, or cannot be written."""
    folder = pathlib.Path(folder)
    if (folder / CONFIG).exists() and not (resume or overwrite):
        raise InputError(f'{folder}: there is a model in it already; --resume goes on with it, --overwrite replaces it')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(folder / '.writable') as f:
            f.write(b'')
        (folder / '.writable').unlink()
    except OSError as e:
        raise unwritable(folder, e) from e


def clear(folder: pathlib.Path, others: Sequence[str] = (), keep_model: bool = False) -> None:
    """Deletes the files of an earlier training; with `keep_model` only the log, the snapshots and `others`, patterns.

    Files of an old and a new model never form a model together: the configuration is deleted first and written last,
    and without it a folder is no model."""
    if not keep_model:
        (folder / CONFIG).unlink(missing_ok=True)
        files.sync_folder(folder)
        for name in (WEIGHTS, VOCABULARY, FAMILIARITY, fine_tuned_encoder.ENCODER, fine_tuned_encoder.NEXT):
            (folder / name).unlink(missing_ok=True)
    for pattern in (LOG, SNAPSHOTS, *others):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
