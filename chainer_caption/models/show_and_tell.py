"""Show and Tell: an LSTM that reads an image and then generates its caption word by word."""
from collections.abc import Sequence
from typing import Any

import chainer
import chainer.functions as F
import chainer.links as L

from chainer_caption.functions import Array, dropout, linear, lstm_sequence, sequence_input
from chainer_caption.models.architecture import Architecture, initializers_from, register_architecture
from chainer_caption.models.decoder import LSTMDecoder

# One mask for each dropout, by its place in the model.
_FEATURE, _IMAGE, _WORDS, _OUTPUT = range(4)


@register_architecture('show_and_tell')
class ShowAndTell(Architecture):
    """The captioner of Vinyals et al., "Show and Tell: a neural image caption generator" (CVPR 2015).

    The embedded image is the LSTM's first input, `<S>` its second, then the words. Links, parameter names and layouts
    are those of a chain of `L.EmbedID`, `L.Linear`, `L.LSTM` and `L.Linear` run word by word: each loads the other's
    weights.

    Args: as for `Architecture`; `dropout` is the ratio for the feature, its embedding, the embedded words and the
    LSTM's output. `log_frequencies` from `Vocabulary.log_frequencies` spares the first updates learning which words
    are common.
    """
    records = True

    def __init__(self, feature_size: int, vocabulary_size: int, hidden: int = 512, dropout: float = 0.5,
                 log_frequencies: Array | None = None, seed: int | None = None, initialW: Any = None) -> None:
        super().__init__()
        with self.init_scope(), initializers_from(seed):
            self.word_vec = L.EmbedID(vocabulary_size, hidden, initialW)
            self.image_vec = L.Linear(feature_size, hidden, initialW=initialW)
            self.lstm = L.LSTM(hidden, hidden, lateral_init=initialW, upward_init=initialW)
            self._add_layers(initialW)
            self.out_word = L.Linear(hidden, vocabulary_size, initialW=initialW, initial_bias=log_frequencies)

    def _add_layers(self, initialW: Any) -> None:
        """Links between the LSTM and the output layer, for subclasses."""

    def decoder(self, record: bool = False) -> LSTMDecoder:
        """The model as it is now, a word at a time; see `LSTMDecoder`."""
        return LSTMDecoder(self, record)

    def outputs(self, features: Array, words: Array, batch_sizes: Sequence[int], update_key: tuple[int, int] | None,
                computed: tuple[Array, Array, Array] | None = None) -> chainer.Variable:
        """The LSTM's outputs at each word, (N, H); `computed` as for `lstm_sequence`."""
        masks, ratio = self.mask_keys(update_key, 4), self.dropout
        image = linear(dropout(features, ratio, masks[_FEATURE]), self.image_vec.W, self.image_vec.b)
        image = dropout(image, ratio, masks[_IMAGE])
        x = sequence_input(image, self.word_vec.W, words, ratio, masks[_WORDS])
        h = lstm_sequence(x, self.lstm.upward.W, self.lstm.upward.b, self.lstm.lateral.W, [len(features), *batch_sizes],
                          computed)
        # The output at the image itself is not used. (split_axis: the gradient of a slice would be a slow scatter.)
        return dropout(F.split_axis(h, [len(features)], axis=0)[1], ratio, masks[_OUTPUT])
