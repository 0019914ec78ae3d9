"""The interface that every captioning model implements, and the table of architectures."""
from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import chainer
import chainer.functions as F
import numpy as np

from chainer_caption.data.batches import captions_of_rows, pack
from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.errors import InputError
from chainer_caption.functions import Array, Sampled, greedy_captions, map_inputs, mask_key, sample_captions, word_loss

#: The architectures by their names in `config.json` and in `--architecture`.
ARCHITECTURES: dict[str, type[Architecture]] = {}

_MAX_SIZE = 2 ** 31     # Larger than in any model, and small enough to be multiplied and printed.

# Constructor arguments that a user may choose, all those that are whole numbers from 1, and those that only initialize
# the weights and are no part of the configuration.
_CHOSEN = 'hidden', 'max_positions'
_SIZES = 'feature_size', 'vocabulary_size', *_CHOSEN
_INITIAL = 'log_frequencies', 'seed', 'initialW'

_Class = TypeVar('_Class', bound='type[Architecture]')


def register_architecture(name: str) -> Callable[[_Class], _Class]:
    """Class decorator that makes an architecture known under a name; ValueError where another has this name."""
    def register(architecture: _Class) -> _Class:
        known, new = (f'{one.__module__}.{one.__qualname__}' for one in (ARCHITECTURES.get(name, architecture),
                                                                         architecture))
        if known != new:
            raise ValueError(f'the architecture {name!r} is {known} already')
        ARCHITECTURES[name], architecture.architecture = architecture, name
        return architecture
    return register


def find_architecture(name: object) -> type[Architecture]:
    """The architecture of a name; InputError where it is not registered."""
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise InputError(f'register {name!r} first: --import the module that defines it (registered architectures: '
                     f'{", ".join(ARCHITECTURES)})')


@contextlib.contextmanager
def initializers_from(seed: int | None) -> Iterator[None]:
    """Context in which Chainer's initializers depend on a seed alone; None leaves them as they are."""
    # They use NumPy's global generator, whose state is restored afterwards.
    state = np.random.get_state()                       # noqa: NPY002
    try:
        if seed is not None:
            np.random.seed(seed)                        # noqa: NPY002
        yield
    finally:
        if seed is not None:
            np.random.set_state(state)                  # noqa: NPY002


class Architecture(chainer.Chain):
    """A captioning model. A subclass defines, beside its links, of which `out_word` is the output layer,

    - `outputs(features, words, batch_sizes, update_key)`: the inputs of the output layer at each word of a packed
      minibatch, (N, H), with dropout in training; arguments as for `__call__`;
    - `decoder()`: the model as it is now, without dropout, a word at a time (see `models.decoder`).

    The loss, training, every search, self-critical training and the model directory follow from these two::

        @register_architecture('mine')
        class Mine(Architecture):
            def __init__(self, feature_size, vocabulary_size, hidden=256, dropout=0.5, layers=2):
                super().__init__()
                with self.init_scope():
                    ...
                    self.out_word = L.Linear(hidden, vocabulary_size)

    Constructor arguments become attributes and, except for `log_frequencies`, `seed` and `initialW`, the model's
    `configuration` in `config.json`: they must be JSON values.

    Args:
        feature_size: D, the length of an image's feature vectors.
        vocabulary_size: V, the number of words, special ones included.
        hidden: H, the width of its layers.
        dropout: The ratio of its dropouts.
        log_frequencies, seed, initialW: Optional arguments: initial output biases, (V,); the seed of the initial
            weights, None for NumPy's global generator; the initializer of all weight matrices, as for Chainer's links,
            where 0 makes a model to load weights into.
    """

    #: Its name in `config.json`; `register_architecture` sets it.
    architecture: str | None = None
    #: The features that it reads: 'vectors' (B, D), 'grids' (B, L, D), or 'both', a tuple of the two.
    reads: str = 'vectors'
    #: Whether it can be trained. If not, it needs no `outputs`.
    trainable: bool = True
    #: Whether `outputs` takes `computed` and `decoder` takes `record`: what sampling computes need not be repeated.
    records: bool = False
    #: The special words that it has no score for.
    unsaid: Sequence[str] = ()
    #: Whether the captions of an image share most of the work, so that a minibatch should have them together;
    #: `outputs` then takes `images`, the row of `features` of each caption, (B,) int on the host, or None.
    per_image: bool = False
    #: Whether it reads the words before the one to predict, and so can learn from text without images.
    reads_words: bool = True
    #: Maximum number of tokens in a caption, `</S>` included; None for no limit.
    max_positions: Any = None
    #: Constructor arguments that are whole numbers from 1, and those that users choose with their defaults.
    sizes: tuple[str, ...] = ()
    chosen: Mapping[str, int] = {}
    feature_size: int
    vocabulary_size: int
    hidden: int

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        defaults = {name: argument.default for name, argument in cls._arguments().items()}
        cls.sizes = tuple(name for name in defaults if name in _SIZES or name in cls.sizes)
        cls.chosen = {name: defaults[name] for name in _CHOSEN if isinstance(defaults.get(name), int)}

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        for name in cls._arguments():
            if name in bound.arguments:
                object.__setattr__(self, name, bound.arguments[name])
        return self

    @classmethod
    def _arguments(cls) -> dict[str, inspect.Parameter]:
        """The constructor arguments that are its configuration."""
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        _, *arguments = inspect.signature(cls.__init__).parameters.values()
        return {a.name: a for a in arguments if a.kind in kinds and a.name not in _INITIAL}

    @classmethod
    def create(cls, configuration: Mapping[str, Any], **initial: Any) -> Any:
        """A model of a configuration; handles `log_frequencies` and `seed` where its constructor does not take them."""
        taken = {name: initial.pop(name) for name in inspect.signature(cls.__init__).parameters if name in initial}
        with initializers_from(initial.get('seed')):
            model = cls(**configuration, **taken)
        if initial.get('log_frequencies') is not None and hasattr(model, 'out_word'):
            model.out_word.b.array[...] = initial['log_frequencies']
        return model

    @property
    def configuration(self) -> dict[str, Any]:
        """The arguments that make a model like this one, as JSON values."""
        values = ((name, getattr(self, name)) for name in self._arguments())
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}

    @classmethod
    def read_configuration(cls, config: Mapping[str, Any], path: object) -> dict[str, Any]:
        """The `configuration` of a model, out of the `config.json` at `path`; InputError where something is missing or
        impossible."""
        found: dict[str, Any] = {}
        for name, argument in cls._arguments().items():
            value, default = config.get(name), argument.default
            if name in cls.sizes:
                if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _MAX_SIZE:
                    raise InputError(f'{path}: "{name}" should be a positive whole number, not {value!r}')
            elif name == 'dropout':
                if not isinstance(value, int | float) or not 0 <= value < 1:
                    raise InputError(f'{path}: "dropout" should be a number from 0 to below 1, not {value!r}')
            elif name not in config:
                if default is argument.empty:
                    raise InputError(f'{path}: lacks "{name}"')
                continue
            elif default not in (argument.empty, None) and not isinstance(value, _like(default)):
                raise InputError(f'{path}: "{name}" should be a value like {default!r}, not {value!r}')
            found[name] = value
        return found

    @classmethod
    def hidden_of(cls, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """H of a model whose weights have these names and shapes, or None where they do not tell."""
        return shapes.get('image_vec/W', (None,))[0]

    @property
    def word_vectors(self) -> Array:
        """A vector for each word, (V, E): the embeddings, or the rows of the output layer."""
        return self.word_vec.W.array if hasattr(self, 'word_vec') else self.out_word.W.array

    @staticmethod
    def mask_keys(update_key: tuple[int, int] | None, count: int) -> list[Array]:
        """The keys of an update's dropout masks, as many as the model has dropouts; `update_key` as for `__call__`."""
        if update_key is None:
            update_key = tuple(np.random.randint(0, 2 ** 31, 2).tolist() if chainer.config.train else (0, 0))  # noqa: NPY002
        return [mask_key(*update_key, site) for site in range(count)]

    def outputs(self, *args: Any, **kwargs: Any) -> chainer.Variable:
        """See the class."""
        raise NotImplementedError(f'{type(self).__name__} cannot be trained: it has no outputs()')

    def decoder(self, *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        raise NotImplementedError(f'{type(self).__name__} generates no captions: it has no decoder()')

    def __call__(self, features: Any, words: Array, targets: Array, batch_sizes: Sequence[int],
                 tokens: float | None = None, images: np.ndarray | None = None,
                 update_key: tuple[int, int] | None = None) -> chainer.Variable:
        """The loss of a packed minibatch (see `batches.pack`), nats per token; reports `loss` and `accuracy`.

        Args:
            features: One row a caption, longest caption first, float32; see `reads`.
            words, targets: The words to read, `<S>` first, and to predict, `</S>` last, packed: (N,) int32 each.
            batch_sizes: Number of captions that have a word at each step.
            tokens: The divisor of the sums over tokens; None for N, their number.
            images: See `per_image`.
            update_key: (seed, number of the update): the key of the dropout masks. None takes one from NumPy's global
                generator, as Chainer's own dropout would.
        """
        more = {'images': images} if self.per_image else {}
        h = self.outputs(features, words, batch_sizes, update_key, **more)
        loss, accuracy = word_loss(h, self.out_word.W, self.out_word.b, targets, tokens)
        chainer.report({'loss': loss, 'accuracy': accuracy}, self)
        return loss

    def _own_decoder(self) -> Any:
        return self.decoder(record=True) if self.records else self.decoder()

    def _limit(self, length: int) -> int:
        return length if self.max_positions is None else min(length, self.max_positions)

    def sample(self, features: Any, key: Any, length: int, numbers: np.ndarray | None = None) -> Sampled:
        """Samples a caption for each row of features, without dropout, `<S>` and `<UNK>`, for `sampled_loss`.

        Args:
            features: As for `decoder().start`.
            key, numbers: See `functions.sample_captions`.
            length: Maximum number of words, `</S>` included.
        """
        return sample_captions(self._own_decoder(), features, key, BOS, EOS, (BOS, UNK), self._limit(length), numbers)

    def greedy(self, features: Any, length: int) -> list[np.ndarray]:
        """The caption of the likeliest word at each place, for each image: word ids, int32, `</S>` last unless it was
        cut. Arguments as for `sample`."""
        return greedy_captions(self._own_decoder(), features, BOS, EOS, (BOS, UNK), self._limit(length))

    def sampled_loss(self, features: Any, sampled: Sampled, weights: np.ndarray) -> chainer.Variable:
        """The weighted sum of the negative log-probabilities of sampled captions, nats: of the features given to
        `sample`, which may be variables; the captions, which can be used once; and the weights of the captions, in the
        order of `features`, (B,) float32."""
        words, targets, batch_sizes = pack(sampled.captions)
        weights = weights[sampled.order][captions_of_rows(batch_sizes)]
        words, targets, weights, order = map(self.device.send, (words, targets, weights, sampled.order))
        features = map_inputs(lambda part: F.permutate(part, order), features)
        more = {} if sampled.recorded is None else {'computed': sampled.recorded}
        with chainer.using_config('train', False):
            h = self.outputs(features, words, batch_sizes, (0, 0), **more)
        if sampled.scores is not None:
            return word_loss(h, self.out_word.W, self.out_word.b, targets, 1, weights, sampled)[0]
        impossible = np.zeros(self.vocabulary_size, np.float32)
        impossible[[BOS, UNK]] = -np.inf
        return word_loss(h, self.out_word.W, self.out_word.b + self.device.send(impossible), targets, 1, weights)[0]


def _like(default: object) -> Any:
    """The types of JSON values that may stand where this one does."""
    if isinstance(default, bool):
        return bool
    return (int, float) if isinstance(default, float) else (list,) if isinstance(default, tuple) else type(default)
