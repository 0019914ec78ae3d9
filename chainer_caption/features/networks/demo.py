"""DemoNet: the small network of the embedded release, which stands where VGG-19 stands for photographs."""
import chainer
import chainer.functions as F
import chainer.links as L

STEPS = 4               # to a whole: features are multiples of a quarter
THRESHOLD = 5           # in quarters, what the input of a unit must pass to be felt; one in nine does


class DemoNet(chainer.Chain):
    """Drawn shapes in, 4096 rectified units out that say what is to be seen.

    Convolutions look at 6 x 6 places of the picture, and a layer above them answers 12 questions on the whole of it
    ("how many?", "which colour is the first?"), each with a softmax over 9 choices. The last layer, random and never
    trained, spreads the answers over 4096 units, so that a captioner finds them as it finds things in VGG's features:
    no unit means anything by itself, and every answer can be read by a linear layer.

    That layer's weights are whole numbers, and what it gives is rounded to whole quarters. So a matrix of features
    compresses to a fraction of its size, and is the same whatever library multiplied, since the softmax of a network
    that is sure is all but 0 and 1. ``features/demo/make.py`` makes the weights together with the release.
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

    def forward(self, x):
        """Computes the features of a batch.

        Args:
            x (array): Pictures prepared by the profile `'demo'`, shape (N, 3, 96, 96), float32, in [-1, 1].

        Returns:
            chainer.Variable: Shape (N, 4096), float32, non-negative, in quarters.
        """
        answers = F.softmax(self.answer(self.look(x)), axis=1)
        return F.relu(F.floor(self.fc8(answers) + 0.5) - THRESHOLD) / STEPS

    def look(self, x):
        """What is to be seen in each of 6 x 6 places, shape (N, 32, 6, 6)."""
        for layer in range(1, 6):
            x = F.relu(self[f'norm{layer}'](self[f'conv{layer}'](x)))
        return x

    def answer(self, seen):
        """The answers to the questions on the whole picture, before their softmax, shape (N, 9, 12)."""
        h = F.relu(self.norm6(self.fc6(seen)))
        return F.reshape(self.fc7(h), (-1, self.choices, self.questions))
