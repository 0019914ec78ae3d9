"""Encoder and decoder: an image becomes a code, and the code a word for each place of the caption, all at once."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np

from chainer_caption.data.batches import captions_of_rows
from chainer_caption.data.vocabulary import EOS
from chainer_caption.errors import InputError
from chainer_caption.functions import Array, dropout, linear, lstm_cell, lstm_sequence, matmul, prepack, sequence_input
from chainer_caption.models.architecture import Architecture, initializers_from, register_architecture

# One mask for each dropout, by its place in the model.
_FEATURE, _IMAGE, _CODE, _FORWARDS, _BACKWARDS = range(5)

MAX_POSITIONS = 4096    #: Work and memory grow with the number of places.


@register_architecture('encoder_decoder')
class EncoderDecoder(Architecture):
    """The captioner of GINK03's keras-image2text (2017), which generated captions in katakana.

    The embedded image is read T times by an LSTM, the encoder, whose last output is the code. The code is read T times
    by a second LSTM and, from the last place to the first, by a third; their outputs at a place together, of width 2H,
    give the scores of the word there. No word is fed back, so the model runs once for an image and not for each of its
    captions. It suits data with one caption for each image; of several captions it mixes the words.

    Args: as for `Architecture`; `dropout` is the ratio for the feature, its embedding, the code and the outputs, and
        max_positions: T, the maximum number of tokens of a caption, `</S>` included; places after it are not trained.
    """
    per_image = True
    reads_words = False
    max_positions: int = 50

    def __init__(self, feature_size: int, vocabulary_size: int, hidden: int = 768, dropout: float = 0.5,
                 log_frequencies: Array | None = None, seed: int | None = None, initialW: Any = None,
                 max_positions: int = 50) -> None:
        super().__init__()

        def lstm() -> Any:
            return L.LSTM(hidden, hidden, lateral_init=initialW, upward_init=initialW)
        with self.init_scope(), initializers_from(seed):
            self.image_vec = L.Linear(feature_size, hidden, initialW=initialW)
            self.encoder, self.forwards, self.backwards = lstm(), lstm(), lstm()
            self.out_word = L.Linear(2 * hidden, vocabulary_size, initialW=initialW, initial_bias=log_frequencies)

    @classmethod
    def read_configuration(cls, config: Mapping[str, Any], path: object) -> dict[str, Any]:
        found = super().read_configuration(config, path)
        if found['max_positions'] > MAX_POSITIONS:
            raise InputError(f'{path}: "max_positions" should be at most {MAX_POSITIONS}, not {found["max_positions"]}')
        return found

    def decoder(self) -> 'PlaceDecoder':
        return PlaceDecoder(self)

    def outputs(self, features: Array, words: Array, batch_sizes: Sequence[int], update_key: tuple[int, int] | None,
                images: np.ndarray | None = None) -> chainer.Variable:
        """The outputs of both LSTMs at each place of each caption, (N, 2H), without use of the words; InputError where
        captions have more tokens than there are places."""
        places, count = self.max_positions, len(features)
        if len(batch_sizes) > places:
            raise InputError(f'{batch_sizes[places]:,} captions have more words than the {places - 1} that {places} '
                             'places have room for beside </S>')
        masks, ratio = self.mask_keys(update_key, 5), self.dropout
        image = linear(dropout(features, ratio, masks[_FEATURE]), self.image_vec.W, self.image_vec.b)
        read = self._read(self.encoder, dropout(image, ratio, masks[_IMAGE]))
        # (split_axis: the gradient of a slice would be a slow scatter.)
        code = F.split_axis(read, [(places - 1) * count], axis=0)[1] if places > 1 else read
        code = dropout(code, ratio, masks[_CODE])
        caption = captions_of_rows([*batch_sizes])
        of_image = caption if images is None else images[caption]
        place = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
        halves = []
        # Each LSTM reads the same at all places, so the one from the end is at place p after T - p steps.
        for link, steps, mask in ((self.forwards, place, _FORWARDS), (self.backwards, places - 1 - place, _BACKWARDS)):
            rows = self.device.send((steps * count + of_image).astype(np.int32))
            halves.append(sequence_input(None, self._read(link, code), rows, ratio, masks[mask]))
        return F.concat(halves)

    def _read(self, lstm: Any, x: Array) -> chainer.Variable:
        return lstm_sequence(x, lstm.upward.W, lstm.upward.b, lstm.lateral.W, [len(x)] * self.max_positions)


class PlaceDecoder:
    """A trained EncoderDecoder, on its device, as a decoder: a step goes to the next place, whatever the words. After
    the last place only `</S>` is possible."""

    def __init__(self, model: EncoderDecoder) -> None:
        self.device, self._max_positions = model.device, model.max_positions
        self._image = model.image_vec.W.array, model.image_vec.b.array
        self._encoder, self._forwards, self._backwards = (
            (link.upward.W.array.T, link.upward.b.array, prepack(link.lateral.W.array.T))
            for link in (model.encoder, model.forwards, model.backwards))
        self._W_out = prepack(model.out_word.W.array.T)
        self.bias = model.out_word.b.array

    def start(self, features: Array) -> tuple[Array, int, np.ndarray]:
        """Runs the model on the images, (n, D) float32 on the device, for the state `(h, place, images)`: the outputs
        at all places, (T, n, 2H) float32, the next place, from 0, and the image of each hypothesis, (n,) int, on the
        host. """
        xp, (W, b), T = self.device.xp, self._image, self._max_positions
        *_, code = self._outputs(self._encoder, matmul(features, W.T) + b)
        units = code.shape[1]
        h = xp.empty((T, len(features), 2 * units), np.float32)
        for place, forwards in enumerate(self._outputs(self._forwards, code)):
            h[place, :, :units] = forwards
        for place, backwards in enumerate(self._outputs(self._backwards, code)):
            h[T - 1 - place, :, units:] = backwards
        return h, 0, np.arange(len(features))

    def _outputs(self, lstm: tuple[Array, Array, Array], x: Array) -> Iterator[Array]:
        """The outputs of an LSTM that reads the same T times: (n, H), step after step."""
        xp, (W_x, b, W_h) = self.device.xp, lstm
        read = matmul(x, W_x)
        h, c = (xp.zeros((len(x), W_h.shape[0]), np.float32) for _ in range(2))
        for _ in range(self._max_positions):
            recurrent, c0 = matmul(h, W_h), c
            h, c = xp.empty_like(h), xp.empty_like(c)
            lstm_cell(read.copy(), recurrent, b, c0, c, h)
            yield h

    def step(self, state: tuple[Array, int, np.ndarray], parents: np.ndarray,
             tokens: Array) -> tuple[tuple[Array, int, np.ndarray], Array]:
        """Goes to the next place; the tokens are not used."""
        h, place, images = state
        images = images[parents]
        if place == self._max_positions:
            scores = self.device.xp.full((len(parents), len(self.bias)), -np.inf, np.float32)
            scores[:, EOS] = 0
            return (h, place, images), scores
        # Hypotheses of the same image share its scores.
        distinct, of = np.unique(images, return_inverse=True)
        scores = matmul(h[place][self.device.send(distinct)], self._W_out)
        return (h, place + 1, images), scores[self.device.send(of)]
