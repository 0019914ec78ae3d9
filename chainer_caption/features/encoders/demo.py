"""DemoNet: the small encoder of the embedded dataset, which stands where VGG-19 stands for photos."""
import functools

import chainer
import chainer.functions as F
import chainer.links as L

from chainer_caption.features.encoders.stages import Stage, Staged

STEPS = 4               # to a whole: features are multiples of a quarter
THRESHOLD = 5           # in quarters, what the input of a unit must pass to be felt; one in nine does


class DemoNet(Staged):
    """Drawn shapes in, 4096 rectified units out that say what is to be seen.

    Convolutions look at 6 x 6 places of the image, and a layer above them answers 12 questions on the whole of it
    ("how many?", "which colour is the first?"), each with a softmax over 9 choices. The last layer, random and never
    trained, spreads the answers over 4096 units, so that a captioner finds them as it finds things in VGG's features:
    no unit means anything by itself, and every answer can be read by a linear layer.

    That layer's weights are whole numbers, and what it gives is rounded to whole quarters. So a matrix of features
    compresses to a fraction of its size, and is the same whatever library multiplied, since the softmax of an encoder
    that is sure is all but 0 and 1. ``features/demo/make.py`` makes the weights together with the dataset. Gradients
    pass the rounding as if it was none.
    """

    questions, choices = 12, 9

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.conv1 = L.Convolution2D(3, 48, 8, stride=4, pad=2, nobias=True)            # 96 -> 24
            self.norm1 = L.BatchNormalization(48)
            self.conv2 = L.Convolution2D(48, 64, 4, stride=2, pad=1, nobias=True)           # 24 -> 12
            self.norm2 = L.BatchNormalization(64)
            self.conv3 = L.Convolution2D(64, 80, 3, pad=1, nobias=True)
            self.norm3 = L.BatchNormalization(80)
            self.conv4 = L.Convolution2D(80, 96, 4, stride=2, pad=1, nobias=True)           # 12 -> 6
            self.norm4 = L.BatchNormalization(96)
            self.conv5 = L.Convolution2D(96, 32, 1, nobias=True)
            self.norm5 = L.BatchNormalization(32)
            self.fc6 = L.Linear(32 * 6 * 6, 384, nobias=True)
            self.norm6 = L.BatchNormalization(384)
            self.fc7 = L.Linear(384, self.questions * self.choices)
            self.fc8 = L.Linear(self.questions * self.choices, 4096, nobias=True)

    def stages(self):
        return [*(Stage(f'conv{layer}', (f'conv{layer}', f'norm{layer}'), functools.partial(self._convolve, layer))
                  for layer in range(1, 6)),
                Stage('fc6', ('fc6', 'norm6'), self._whole),
                Stage('fc7', ('fc7',), lambda h: F.softmax(self._answers(h), axis=1)),
                Stage('fc8', ('fc8',), lambda answers: F.relu(_rounded(self.fc8(answers)) - THRESHOLD) / STEPS)]

    def look(self, x):
        """What is to be seen in each of 6 x 6 places, shape (N, 32, 6, 6)."""
        for layer in range(1, 6):
            x = self._convolve(layer, x)
        return x

    def _convolve(self, layer, x):
        return F.relu(self[f'norm{layer}'](self[f'conv{layer}'](x)))

    def answer(self, seen):
        """The answers to the questions on the whole image, before their softmax, shape (N, 9, 12)."""
        return self._answers(self._whole(seen))

    def _whole(self, seen):
        return F.relu(self.norm6(self.fc6(seen)))

    def _answers(self, h):
        return F.reshape(self.fc7(h), (-1, self.choices, self.questions))


def _rounded(x):
    return _Rounded().apply((x,))[0]


class _Rounded(chainer.FunctionNode):

    def forward(self, inputs):
        x, = inputs
        return chainer.backend.get_array_module(x).floor(x + x.dtype.type(0.5)),

    def backward(self, indexes, grad_outputs):
        return grad_outputs
