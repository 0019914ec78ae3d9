"""Merge: an LSTM that reads words alone; the image joins what it has read before the next word is chosen."""
import chainer.functions as F
import chainer.links as L
import numpy as np

from chainer_caption.data.batches import captions_of_rows
from chainer_caption.functions import dropout, linear, lstm_sequence, sequence_input
from chainer_caption.functions.matmul import matmul, one_blas_thread, prepack
from chainer_caption.models.architecture import initializers_from
from chainer_caption.models.speaker import Speaker
from chainer_caption.models.stepper import Stepper

# One mask a dropout, told apart by their place in the model.
_FEATURE, _WORDS = range(2)


class Merge(Speaker):
    """The merge architecture of Tanti, Gatt and Camilleri, "What is the role of recurrent neural encoders (RNNs) in an
    image caption generator?" (INLG 2017), with the layers that the well-known Keras tutorials give it.

    The LSTM reads `<S>` and the words. At each word its output and the embedded image (both of width H, the image after
    a ReLU) are added, go through another layer of width H with a ReLU, and that gives the scores of the next word.

    Args: as for `Architecture`; dropout is that of the feature and of the embedded words.
    """

    architecture = 'merge'

    def __init__(self, feature_size, vocabulary_size, hidden=512, dropout=0.5, log_frequencies=None, seed=None,
                 initialW=None):
        super().__init__(dropout)
        with self.init_scope(), initializers_from(seed):
            self.word_vec = L.EmbedID(vocabulary_size, hidden, initialW)
            self.image_vec = L.Linear(feature_size, hidden, initialW=initialW)
            self.lstm = L.LSTM(hidden, hidden, lateral_init=initialW, upward_init=initialW)
            self.joint = L.Linear(hidden, hidden, initialW=initialW)
            self.out_word = L.Linear(hidden, vocabulary_size, initialW=initialW, initial_bias=log_frequencies)

    @staticmethod
    def weight_shapes(feature_size, vocabulary_size, hidden):
        return {'word_vec/W': (vocabulary_size, hidden), 'image_vec/W': (hidden, feature_size),
                'image_vec/b': (hidden,), 'lstm/upward/W': (4 * hidden, hidden), 'lstm/upward/b': (4 * hidden,),
                'lstm/lateral/W': (4 * hidden, hidden), 'joint/W': (hidden, hidden), 'joint/b': (hidden,),
                'out_word/W': (vocabulary_size, hidden), 'out_word/b': (vocabulary_size,)}

    def stepper(self):
        return MergeStepper(self)

    def outputs(self, features, words, batch_sizes, update_key, computed=None):
        """What the LSTM has read joined with the images; as `Speaker` has it."""
        masks = self.mask_keys(update_key, 2)
        image = F.relu(linear(dropout(features, self.dropout, masks[_FEATURE]), self.image_vec.W, self.image_vec.b))
        x = sequence_input(None, self.word_vec.W, words, self.dropout, masks[_WORDS])
        h = lstm_sequence(x, self.lstm.upward.W, self.lstm.upward.b, self.lstm.lateral.W, batch_sizes, computed)
        rows = self.device.send(captions_of_rows(batch_sizes).astype(np.int32))
        joined = h + sequence_input(None, image, rows, 0, masks[_FEATURE])
        return F.relu(linear(joined, self.joint.W, self.joint.b))

    def voice(self, features):
        with one_blas_thread():
            joint = _Joint(self)
            images = joint.read(features)
        return self._voice(len(features), joined=lambda h, rows: joint.join(h, images[self.device.send(rows)]))


class _Joint:
    # A trained Merge's layer in which words and image join. It is linear before its ReLU, so that the image's share of
    # it is computed once for each image.

    def __init__(self, model):
        self._image = model.image_vec.W.array, model.image_vec.b.array
        self._joint = prepack(model.joint.W.array.T), model.joint.b.array
        self._xp = model.xp

    def read(self, features):
        """The images' shares of the layer, (n, H)."""
        (W, b), (W_joint, b_joint) = self._image, self._joint
        return matmul(self._xp.maximum(matmul(features, W.T) + b, 0), W_joint) + b_joint

    def join(self, h, images):
        """What the output layer reads, from the LSTM's outputs and the shares of their images, (n, H)."""
        joined = matmul(h, self._joint[0])
        joined += images
        return self._xp.maximum(joined, 0, out=joined)


class MergeStepper(Stepper):
    """A trained Merge as a recurrence over arrays; otherwise as `Stepper`.

    Args:
        model (Merge): The model, on the device where the search is to run.
    """

    def __init__(self, model):
        super().__init__(model)
        self._joint = _Joint(model)

    def start(self, features):
        """Embeds the images.

        Args:
            features (array): (n, D) float32, on the device.

        Returns:
            tuple: The state `(h, c, images, rows)`: the LSTM's before any word, (n, H) float32; the images' share
            of the joint layer, (n, H) float32; and whose each row is, (n,) int, on the host.
        """
        images = self._joint.read(features)
        h = self.device.xp.zeros_like(images)
        return h, h.copy(), images, np.arange(len(features))

    def step(self, state, parents, words):
        """As `Stepper.step`, with the states of `start`."""
        h, c, images, rows = state
        rows = rows[parents]
        h, c = self._read((h, c), parents, words)
        return (h, c, images, rows), matmul(self._joint.join(h, images[self.device.send(rows)]), self._W_out)
