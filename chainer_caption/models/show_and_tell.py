"""Show and Tell: an LSTM that reads an image, then says it word by word."""
import chainer.functions as F
import chainer.links as L

from chainer_caption.functions import dropout, linear, lstm_sequence, sequence_input
from chainer_caption.models.architecture import initializers_from
from chainer_caption.models.speaker import Speaker
from chainer_caption.models.stepper import Stepper

# One mask a dropout, told apart by their place in the model.
_FEATURE, _IMAGE, _WORDS, _OUTPUT = range(4)


class ShowAndTell(Speaker):
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

    def outputs(self, features, words, batch_sizes, update_key, computed=None):
        """The LSTM's outputs at each word; as `Speaker` has it."""
        ratio = self.dropout
        masks = self.mask_keys(update_key, 4)
        image = linear(dropout(features, ratio, masks[_FEATURE]), self.image_vec.W, self.image_vec.b)
        image = dropout(image, ratio, masks[_IMAGE])
        x = sequence_input(image, self.word_vec.W, words, ratio, masks[_WORDS])
        h = lstm_sequence(x, self.lstm.upward.W, self.lstm.upward.b, self.lstm.lateral.W, [len(features), *batch_sizes],
                          computed)
        # The image's own output says nothing. (split_axis: the gradient of a slice would be a slow scatter.)
        return dropout(F.split_axis(h, [len(features)], axis=0)[1], ratio, masks[_OUTPUT])

    def voice(self, features):
        return self._voice(len(features), self.xp.dot(features, self.image_vec.W.array.T) + self.image_vec.b.array)
