"""What a captioning model is to those who know none in particular: training, searches, the model directory."""
import contextlib

import chainer
import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.functions import mask_key

# More than any model has, and little enough to be multiplied and printed.
_MAX_SIZE = 2 ** 31


@contextlib.contextmanager
def initializers_from(seed):
    """Within it Chainer's initializers follow from a seed; None leaves them as they are."""
    # They draw from NumPy's global generator: with a seed it is borrowed, and given back as it was.
    state = np.random.get_state()                       # noqa: NPY002
    try:
        if seed is not None:
            np.random.seed(seed)                        # noqa: NPY002
        yield
    finally:
        if seed is not None:
            np.random.set_state(state)                  # noqa: NPY002


class Architecture(chainer.Chain):
    """A captioning model. A subclass is an entry of `models.ARCHITECTURES` and has, besides its links,

    - `__call__(features, words, targets, sizes, tokens=None, update_key=None)`, the loss of a packed minibatch
      (`data.batches.pack` makes the arguments), nats per token, which reports `loss` and `accuracy`; where it is
      `per_image`, with `images=None` after `tokens`, see `data.batches.PackCaptions`;
    - `stepper()`, the trained model as searches take it: `start(features)`, `step(state, parents, words)`, `bias`;
    - a property for each of its `sizes`; and the property `word_vectors`, an array with a row for each
      word. Those that are here are read from the links `image_vec` (D to H), `out_word` (to V) and `word_vec`.

    Args:
        feature_size (int): D, the length of an image's feature vector.
        vocabulary_size (int): V, the number of words, special ones included.
        hidden (int): H, the width of its layers.
        dropout (float): The ratio of its dropouts.
        log_frequencies (array or None): What the output biases start from, (V,).
        seed (int or None): What the initial weights follow from; None draws them from NumPy's global generator.
        initialW (initializer or None): Of all weight matrices, as for Chainer's links; 0 makes a model to load weights
            into without drawing any.
    """

    #: What `config.json` calls it under the key `model`.
    architecture = None
    #: The arguments that are whole numbers from 1, which `config.json` has under their names.
    sizes = 'feature_size', 'vocabulary_size', 'hidden'
    #: Those of them that a user may choose, and what they are where nobody does.
    chosen = {'hidden': 512}  # noqa: RUF012 (read only)
    #: Whether it has a loss; one that has none needs no more than `stepper()`.
    trainable = True
    #: The special words that it has no score for.
    unsaid = ()
    #: Whether all captions of an image share most of the work, so that they had best be in the same minibatch.
    per_image = False
    #: How many tokens its captions have at most, `</S>` among them; None for any.
    max_positions = None
    #: What it reads of an image, one of `data.dataset.READS`: a minibatch's `features` is then (B, D), (B, L, D), or a
    #: tuple of both.
    reads = 'vectors'

    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout

    @staticmethod
    def weight_shapes(feature_size, vocabulary_size, hidden):
        """The names and shapes in `weights.npz` of a model of these sizes: a dict."""
        raise NotImplementedError

    @classmethod
    def shaping(cls, configuration):
        """The part of a `configuration` that the shapes of the weights follow from: arguments of `weight_shapes`."""
        return {name: configuration[name] for name in cls.sizes}

    @classmethod
    def hidden_of(cls, shapes):
        """H of a model whose weights have these names and shapes (a dict), or None where they do not tell."""
        shape = shapes.get('image_vec/W')
        return shape[0] if shape else None

    @property
    def feature_size(self):
        return self.image_vec.W.shape[1]

    @property
    def vocabulary_size(self):
        return self.out_word.W.shape[0]

    @property
    def hidden(self):
        return self.image_vec.W.shape[0]

    @property
    def word_vectors(self):
        return self.word_vec.W.array

    @staticmethod
    def mask_keys(update_key, count):
        """The keys of the dropout masks of an update.

        Args:
            update_key (tuple of int or None): (seed, number of the update). None draws a key from NumPy's global
                generator, as Chainer's own dropout would.
            count (int): How many dropouts the model has.

        Returns:
            list: A key for each of them, from `mask_key`.
        """
        if update_key is None:
            update_key = np.random.randint(0, 2 ** 31, 2).tolist() if chainer.config.train else (0, 0)  # noqa: NPY002
        return [mask_key(*update_key, site) for site in range(count)]

    @property
    def configuration(self):
        """The arguments that make a model like this one, as JSON values: a dict."""
        return {**{name: getattr(self, name) for name in self.sizes}, 'dropout': self.dropout}

    @classmethod
    def read_configuration(cls, config, path):
        """The `configuration` of a model, out of the `config.json` at `path`.

        Raises:
            InputError: Something is missing or impossible; the line names it.
        """
        found = {}
        for key in cls.sizes:
            found[key] = value = config.get(key)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _MAX_SIZE:
                raise InputError(f'{path}: "{key}" should be a positive whole number, not {value!r}')
        found['dropout'] = dropout = config.get('dropout')
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise InputError(f'{path}: "dropout" should be a number from 0 to below 1, not {dropout!r}')
        return found
