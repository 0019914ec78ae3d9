"""Show and Tell: an LSTM that reads an image, then says it word by word."""
import chainer
import chainer.functions as F
import chainer.links as L

from chainer_caption.data.batches import captions_of_rows, pack
from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.functions import dropout, linear, lstm_sequence, sequence_input, word_loss
from chainer_caption.functions.sampling import greedy, sample, sampled_loss
from chainer_caption.models.architecture import Architecture, initializers_from
from chainer_caption.models.stepper import Stepper

# One mask a dropout, told apart by their place in the model.
_FEATURE, _IMAGE, _WORDS, _OUTPUT = range(4)


class ShowAndTell(Architecture):
    """The captioner of Vinyals et al., "Show and Tell: a neural image caption generator" (CVPR 2015).

    The embedded image is the LSTM's first input, `<S>` its second, then the words. Links, parameter names and layouts
    are those of a chain of `L.EmbedID`, `L.Linear`, `L.LSTM` and `L.Linear` run word by word: either loads the
    other's weights.

    Args:
        feature_size (int): D, the length of an image's feature vector.
        vocabulary_size (int): V, the number of words, special ones included.
        hidden (int): H, the width of the embeddings and of the LSTM.
        dropout (float): The ratio for the feature, its embedding, the embedded words and the LSTM's output.
        log_frequencies (array or None): What the output biases start from, (V,), from
            `Vocabulary.log_frequencies`: the first updates are not spent on learning which words are common. None
            starts them from zero.
        seed (int or None): What the initial weights follow from. None draws them from NumPy's global generator, as
            Chainer does.
        initialW (initializer or None): Of all weight matrices, as for Chainer's links; 0 makes a model to load weights
            into without drawing any.
    """

    architecture = 'show_and_tell'

    def __init__(self, feature_size, vocabulary_size, hidden=512, dropout=0.5, log_frequencies=None, seed=None,
                 initialW=None):
        super().__init__(dropout)
        with self.init_scope(), initializers_from(seed):
            self.word_vec = L.EmbedID(vocabulary_size, hidden, initialW)
            self.image_vec = L.Linear(feature_size, hidden, initialW=initialW)
            self.lstm = L.LSTM(hidden, hidden, lateral_init=initialW, upward_init=initialW)
            self.out_word = L.Linear(hidden, vocabulary_size, initialW=initialW, initial_bias=log_frequencies)

    @staticmethod
    def weight_shapes(feature_size, vocabulary_size, hidden):
        return {'word_vec/W': (vocabulary_size, hidden), 'image_vec/W': (hidden, feature_size),
                'image_vec/b': (hidden,), 'lstm/upward/W': (4 * hidden, hidden), 'lstm/upward/b': (4 * hidden,),
                'lstm/lateral/W': (4 * hidden, hidden), 'out_word/W': (vocabulary_size, hidden),
                'out_word/b': (vocabulary_size,)}

    def stepper(self):
        """The model as it is now, one word at a time, for searching."""
        return Stepper(self)

    def __call__(self, features, words, targets, sizes, tokens=None, update_key=None):
        """The loss of a packed minibatch of captions (`batches.pack` makes its arguments).

        Reports `loss` (nats per token) and `accuracy`.

        Args:
            features (array): One row a caption, longest caption first, (B, D) float32.
            words (array): The words to read, `<S>` first, packed: (N,) int32.
            targets (array): The words to predict, `</S>` last, packed in the same way: (N,) int32.
            sizes (sequence of int): The captions still running at each word.
            tokens (float or None): What the sums over tokens are divided by; None for N, their number.
            update_key (tuple of int or None): (seed, number of the update), from which the dropout masks follow.
                None draws a key from NumPy's global generator, as Chainer's own dropout would.

        Returns:
            chainer.Variable: The loss, () float32.
        """
        h = self._outputs(features, words, sizes, update_key)
        loss, accuracy = word_loss(h, self.out_word.W, self.out_word.b, targets, tokens)
        chainer.report({'loss': loss, 'accuracy': accuracy}, self)
        return loss

    def _outputs(self, features, words, sizes, update_key, computed=None):
        # The LSTM's outputs at each word, (N, H).
        ratio = self.dropout
        masks = self.mask_keys(update_key, 4)
        image = linear(dropout(features, ratio, masks[_FEATURE]), self.image_vec.W, self.image_vec.b)
        image = dropout(image, ratio, masks[_IMAGE])
        x = sequence_input(image, self.word_vec.W, words, ratio, masks[_WORDS])
        h = lstm_sequence(x, self.lstm.upward.W, self.lstm.upward.b, self.lstm.lateral.W, [len(features), *sizes],
                          computed)
        # The image's own output says nothing. (split_axis: the gradient of a slice would be a slow scatter.)
        return dropout(F.split_axis(h, [len(features)], axis=0)[1], ratio, masks[_OUTPUT])

    def sample(self, features, key, length, numbers=None):
        """Draws a caption for each image, as the model is without dropout; `<S>` and `<UNK>` are not said.

        Args:
            features (array): A row for each caption to be drawn, (B, D) float32.
            key: Two uint32 words, from `mask_key`.
            length (int): Words at most, `</S>` among them.
            numbers (numpy.ndarray or None): See `functions.sampling.sample`.

        Returns:
            Sampled: The captions, for `sampled_loss`.
        """
        image, W, lstm, out = self._speaking(features)
        return sample(image, W, lstm, out, key, BOS, EOS, (BOS, UNK), length, numbers)

    def greedy(self, features, length):
        """The caption of each image that has the likeliest word at each place, without dropout.

        Args:
            features (array): A row for each image, (B, D) float32.
            length (int): Words at most, `</S>` among them.

        Returns:
            list of numpy.ndarray: The word ids of each caption, `</S>` last unless it was cut, int32.
        """
        return greedy(*self._speaking(features), BOS, EOS, (BOS, UNK), length)

    def _speaking(self, features):
        # The embedded images, and the weights that `functions.sampling` speaks with.
        image = self.xp.dot(features, self.image_vec.W.array.T) + self.image_vec.b.array
        lstm = self.lstm.upward.W.array, self.lstm.upward.b.array, self.lstm.lateral.W.array
        return image, self.word_vec.W.array, lstm, (self.out_word.W.array, self.out_word.b.array)

    def sampled_loss(self, features, sampled, weights):
        """The weighted sum of the negative log-probabilities of captions that `sample` has drawn.

        Args:
            features (array): As they were drawn from, (B, D) float32.
            sampled (Sampled): The captions; once used it is used up.
            weights (numpy.ndarray): Of each caption, in the order of `features`, (B,) float32.

        Returns:
            chainer.Variable: The sum, nats, () float32.
        """
        words, targets, sizes = pack(sampled.captions)
        weights = weights[sampled.order][captions_of_rows(sizes)]
        words, targets, weights, order = (self.device.send(array) for array in (words, targets, weights, sampled.order))
        with chainer.using_config('train', False):
            h = self._outputs(F.permutate(features, order), words, sizes, (0, 0), (sampled.gates, sampled.c, sampled.h))
        return sampled_loss(h, self.out_word.W, self.out_word.b, sampled, targets, weights)
