"""Models that say a caption word by word: the loss of people's captions, and that of captions of their own."""
import chainer
import chainer.functions as F

from chainer_caption.data.batches import captions_of_rows, pack
from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.functions import word_loss
from chainer_caption.functions.sampling import Voice, greedy, sample, sampled_loss
from chainer_caption.models.architecture import Architecture


class Speaker(Architecture):
    """An architecture whose LSTM says a caption word by word, from the links `word_vec`, `lstm` and `out_word`.

    A subclass has, beside what `Architecture` asks for,

    - `outputs(features, words, batch_sizes, update_key, computed=None)`: what the output layer reads at each word of a
      packed minibatch, (N, H); arguments as for `__call__`, and the LSTM's `computed` as `lstm_sequence` takes it;
    - `voice(features)`: a `Voice` that says the same, without dropout.
    """

    def __call__(self, features, words, targets, batch_sizes, tokens=None, update_key=None):
        """The loss of a packed minibatch of captions (`batches.pack` makes its arguments).

        Reports `loss` (nats per token) and `accuracy`.

        Args:
            features (array): One row a caption, longest caption first, (B, D) float32.
            words (array): The words to read, `<S>` first, packed: (N,) int32.
            targets (array): The words to predict, `</S>` last, packed in the same way: (N,) int32.
            batch_sizes (sequence of int): The captions still running at each word.
            tokens (float or None): What the sums over tokens are divided by; None for N, their number.
            update_key (tuple of int or None): (seed, number of the update), from which the dropout masks follow.
                None draws a key from NumPy's global generator, as Chainer's own dropout would.

        Returns:
            chainer.Variable: The loss, () float32.
        """
        h = self.outputs(features, words, batch_sizes, update_key)
        loss, accuracy = word_loss(h, self.out_word.W, self.out_word.b, targets, tokens)
        chainer.report({'loss': loss, 'accuracy': accuracy}, self)
        return loss

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
        return sample(self.voice(features), key, BOS, EOS, (BOS, UNK), length, numbers)

    def greedy(self, features, length):
        """The caption of each image that has the likeliest word at each place, without dropout.

        Args:
            features (array): A row for each image, (B, D) float32.
            length (int): Words at most, `</S>` among them.

        Returns:
            list of numpy.ndarray: The word ids of each caption, `</S>` last unless it was cut, int32.
        """
        return greedy(self.voice(features), BOS, EOS, (BOS, UNK), length)

    def sampled_loss(self, features, sampled, weights):
        """The weighted sum of the negative log-probabilities of captions that `sample` has drawn.

        Args:
            features (array): As they were drawn from, (B, D) float32.
            sampled (Sampled): The captions; once used it is used up.
            weights (numpy.ndarray): Of each caption, in the order of `features`, (B,) float32.

        Returns:
            chainer.Variable: The sum, nats, () float32.
        """
        words, targets, batch_sizes = pack(sampled.captions)
        weights = weights[sampled.order][captions_of_rows(batch_sizes)]
        words, targets, weights, order = (self.device.send(array) for array in (words, targets, weights, sampled.order))
        with chainer.using_config('train', False):
            h = self.outputs(F.permutate(features, order), words, batch_sizes, (0, 0), (sampled.gates, sampled.c,
                                                                                        sampled.h))
        return sampled_loss(h, self.out_word.W, self.out_word.b, sampled, targets, weights)

    def _voice(self, count, image=None, joined=None):
        lstm = self.lstm.upward.W.array, self.lstm.upward.b.array, self.lstm.lateral.W.array
        return Voice(count, image, self.word_vec.W.array, lstm, (self.out_word.W.array, self.out_word.b.array), joined)
