"""Merge: an LSTM that reads words only; the image joins its output before the next word is chosen."""
from collections.abc import Sequence
from typing import Any

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np

from chainer_caption.data.batches import captions_of_rows
from chainer_caption.functions import Array, dropout, linear, lstm_sequence, matmul, prepack, sequence_input
from chainer_caption.models.architecture import register_architecture
from chainer_caption.models.decoder import LSTMDecoder, LSTMState
from chainer_caption.models.show_and_tell import ShowAndTell

# One mask for each dropout, by its place in the model.
_FEATURE, _WORDS = range(2)


@register_architecture('merge')
class Merge(ShowAndTell):
    """The merge architecture of Tanti, Gatt and Camilleri, "What is the role of recurrent neural encoders (RNNs) in an
    image caption generator?" (INLG 2017), with the layers that the well-known Keras tutorials give it.

    The LSTM reads `<S>` and the words. At each word its output and the embedded image (both of width H, the image after
    a ReLU) are added and go through another layer of width H with a ReLU, from which the output layer computes the
    scores of the next word.

    Args: as for `Architecture`; `dropout` is the ratio for the feature and the embedded words.
    """

    def _add_layers(self, initialW: Any) -> None:
        self.joint = L.Linear(self.hidden, self.hidden, initialW=initialW)

    def decoder(self, record: bool = False) -> 'MergeDecoder':
        return MergeDecoder(self, record)

    def outputs(self, features: Array, words: Array, batch_sizes: Sequence[int], update_key: tuple[int, int] | None,
                computed: tuple[Array, Array, Array] | None = None) -> chainer.Variable:
        """The joined layer at each word, (N, H); `computed` as for `lstm_sequence`."""
        masks = self.mask_keys(update_key, 2)
        image = F.relu(linear(dropout(features, self.dropout, masks[_FEATURE]), self.image_vec.W, self.image_vec.b))
        x = sequence_input(None, self.word_vec.W, words, self.dropout, masks[_WORDS])
        h = lstm_sequence(x, self.lstm.upward.W, self.lstm.upward.b, self.lstm.lateral.W, batch_sizes, computed)
        rows = self.device.send(captions_of_rows([*batch_sizes]).astype(np.int32))
        joined = h + sequence_input(None, image, rows, 0, masks[_FEATURE])
        return F.relu(linear(joined, self.joint.W, self.joint.b))


class MergeDecoder(LSTMDecoder):
    """A trained Merge as a recurrence over arrays; otherwise as `LSTMDecoder`. The joint layer is linear before its
    ReLU, so the part of each image is computed once."""

    def __init__(self, model: Merge, record: bool = False) -> None:
        super().__init__(model, record)
        self._joint = prepack(model.joint.W.array.T), model.joint.b.array

    def start(self, features: Array) -> LSTMState:
        """Embeds the images, (n, D) float32 on the device; the LSTM has read nothing."""
        xp, (W, b), (W_joint, b_joint) = self.device.xp, self._image, self._joint
        images = matmul(xp.maximum(matmul(features, W.T) + b, 0), W_joint) + b_joint
        h = xp.zeros_like(images)
        return LSTMState(h, h.copy(), None, images)

    def output(self, h: Array, images: Array | None) -> Array:
        joined = matmul(h, self._joint[0])
        joined += images
        return self.device.xp.maximum(joined, 0, out=joined)
