"""Encoder and decoder: an image becomes a code, and the code a word for each place of the caption, all at once."""
import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np

from chainer_caption.data.batches import captions_of_rows
from chainer_caption.data.vocabulary import EOS
from chainer_caption.errors import InputError
from chainer_caption.functions import dropout, linear, lstm_sequence, sequence_input, word_loss
from chainer_caption.functions.lstm import lstm_cell
from chainer_caption.functions.matmul import matmul, prepack
from chainer_caption.models.architecture import Architecture, initializers_from

# One mask a dropout, told apart by their place in the model.
_FEATURE, _IMAGE, _CODE, _FORWARDS, _BACKWARDS = range(5)

#: The work and the memory grow with the places.
MAX_POSITIONS = 4096


class EncoderDecoder(Architecture):
    """The captioner of GINK03's keras-image2text (2017), which wrote captions in katakana.

    The embedded image is read T times by an LSTM, the encoder, whose last output is the code. The code is read T times
    by another and, from the last place to the first, by a third; their outputs at a place together, of width 2H, give
    the scores of the word there. No word is fed back: what stands at one place says nothing of what stands at the next,
    so that the model is run once for an image and not for each of its captions. It suits data in which an image has
    one caption; of several it mixes the words.

    `</S>` takes a place, and what is behind it is not learned.

    Args: as for `Architecture`, and
        max_positions (int): T, the most tokens of a caption, `</S>` among them.
        dropout (float): The ratio for the feature, its embedding, the code and the outputs.
    """

    architecture = 'encoder_decoder'
    sizes = *Architecture.sizes, 'max_positions'
    chosen = {'hidden': 768, 'max_positions': 50}  # noqa: RUF012 (read only)
    per_image = True

    def __init__(self, feature_size, vocabulary_size, hidden=768, dropout=0.5, log_frequencies=None, seed=None,
                 initialW=None, max_positions=50):
        super().__init__(dropout)
        self.max_positions = max_positions

        def lstm():
            return L.LSTM(hidden, hidden, lateral_init=initialW, upward_init=initialW)
        with self.init_scope(), initializers_from(seed):
            self.image_vec = L.Linear(feature_size, hidden, initialW=initialW)
            self.encoder, self.forwards, self.backwards = lstm(), lstm(), lstm()
            self.out_word = L.Linear(2 * hidden, vocabulary_size, initialW=initialW, initial_bias=log_frequencies)

    @staticmethod
    def weight_shapes(feature_size, vocabulary_size, hidden, max_positions):
        lstm = {'upward/W': (4 * hidden, hidden), 'upward/b': (4 * hidden,), 'lateral/W': (4 * hidden, hidden)}
        return {'image_vec/W': (hidden, feature_size), 'image_vec/b': (hidden,),
                **{f'{link}/{name}': shape for link in ('encoder', 'forwards', 'backwards')
                   for name, shape in lstm.items()},
                'out_word/W': (vocabulary_size, 2 * hidden), 'out_word/b': (vocabulary_size,)}

    @classmethod
    def read_configuration(cls, config, path):
        found = super().read_configuration(config, path)
        if found['max_positions'] > MAX_POSITIONS:
            raise InputError(f'{path}: "max_positions" should be at most {MAX_POSITIONS}, not {found["max_positions"]}')
        return found

    @property
    def word_vectors(self):
        return self.out_word.W.array

    def stepper(self):
        return PlaceStepper(self)

    def __call__(self, features, words, targets, batch_sizes, tokens=None, images=None, update_key=None):
        """The loss of a packed minibatch of captions; as `ShowAndTell` has it, and

        Args:
            words (array): Not looked at.
            images (numpy.ndarray or None): The row of `features` that each caption is of, (B,) int, on the host; None
                where each has its own.

        Raises:
            InputError: Captions have more tokens than there are places.
        """
        places, count = self.max_positions, len(features)
        if len(batch_sizes) > places:
            raise InputError(f'{batch_sizes[places]:,} captions have more words than the {places - 1} that {places} '
                             f'places '
                             'have room for beside </S>')
        masks, ratio = self.mask_keys(update_key, 5), self.dropout
        image = linear(dropout(features, ratio, masks[_FEATURE]), self.image_vec.W, self.image_vec.b)
        read = self._read(self.encoder, dropout(image, ratio, masks[_IMAGE]))
        # (split_axis: the gradient of a slice would be a slow scatter.)
        code = dropout(F.split_axis(read, [(places - 1) * count], axis=0)[1] if places > 1 else read, ratio,
                       masks[_CODE])
        caption = captions_of_rows(batch_sizes)
        of_image = caption if images is None else images[caption]
        place = np.repeat(np.arange(len(batch_sizes)), batch_sizes)
        halves = []
        # Each reads the same at all places, so that whoever comes from the end is at place p after T - p steps.
        for link, steps, mask in ((self.forwards, place, _FORWARDS), (self.backwards, places - 1 - place, _BACKWARDS)):
            rows = self.device.send((steps * count + of_image).astype(np.int32))
            halves.append(sequence_input(None, self._read(link, code), rows, ratio, masks[mask]))
        loss, accuracy = word_loss(F.concat(halves), self.out_word.W, self.out_word.b, targets, tokens)
        chainer.report({'loss': loss, 'accuracy': accuracy}, self)
        return loss

    def _read(self, lstm, x):
        return lstm_sequence(x, lstm.upward.W, lstm.upward.b, lstm.lateral.W, [len(x)] * self.max_positions)


class PlaceStepper:
    """A trained EncoderDecoder as searches take it: a step goes on by a place, whatever the words.

    After the last place nothing but `</S>` can be said.

    Args:
        model (EncoderDecoder): The model, on the device where the search is to run.
    """

    def __init__(self, model):
        self.device, self._max_positions = model.device, model.max_positions
        self._image = model.image_vec.W.array, model.image_vec.b.array
        self._encoder, self._forwards, self._backwards = (
            (link.upward.W.array.T, link.upward.b.array, prepack(link.lateral.W.array.T))
            for link in (model.encoder, model.forwards, model.backwards))
        self._W_out = prepack(model.out_word.W.array.T)
        #: The biases of the words' scores, (V,); `step` leaves them to be added by whoever reads the scores next.
        self.bias = model.out_word.b.array

    def start(self, features):
        """Runs the model.

        Args:
            features (array): (n, D) float32, on the device.

        Returns:
            tuple: The state `(h, place, images)`: the outputs at all places, (T, n, 2H) float32, the next place, from
            0, and whose each row is, (n,) int, on the host.
        """
        xp, (W, b), T = self.device.xp, self._image, self._max_positions
        *_, code = self._outputs(self._encoder, matmul(features, W.T) + b)
        units = code.shape[1]
        h = xp.empty((T, len(features), 2 * units), np.float32)
        for place, forwards in enumerate(self._outputs(self._forwards, code)):
            h[place, :, :units] = forwards
        for place, backwards in enumerate(self._outputs(self._backwards, code)):
            h[T - 1 - place, :, units:] = backwards
        return h, 0, np.arange(len(features))

    def _outputs(self, lstm, x):
        """What an LSTM says when it reads the same T times: (n, H), step after step."""
        xp, (W_x, b, W_h) = self.device.xp, lstm
        read = matmul(x, W_x)
        h, c = (xp.zeros((len(x), W_h.shape[0]), np.float32) for _ in range(2))
        for _ in range(self._max_positions):
            gates, recurrent, h0, c0 = read.copy(), matmul(h, W_h), h, c
            h, c = xp.empty_like(h0), xp.empty_like(c0)
            lstm_cell(gates, recurrent, b, c0, c, h)
            yield h

    def step(self, state, parents, words):
        """Goes on by a place, as `Stepper.step` does by a word; the words are not looked at.

        Args:
            state (tuple): `(h, place, images)` of the hypotheses before.
            parents (numpy.ndarray): Which of them each new hypothesis continues, (n,) int.
            words (numpy.ndarray): Not looked at.

        Returns:
            tuple: `(state, scores)`: the state of the new hypotheses, and the scores of their words at this place,
            without the biases: (n, V) float32.
        """
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
