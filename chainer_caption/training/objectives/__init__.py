"""What a training aims at: the words that people wrote, or captions of the model's own that score well.

An objective has the minibatches and their loss, and says what it reports; the trainer knows nothing else of it. It is
made with the dataset, the bundle, the settings, the converter of captions (`make_converter`, or a `OnlineFeatures` in
its place), the processes, and a callable that takes notices. Its attributes:

- `iterator`, a Chainer iterator over the training examples, and `converter`, of its minibatches;
- `loss(update, *batch)`, which gives the variable to be minimised, for the update of that number, and reports;
- `captions`, how many are learned from in an epoch;
- `reports`, the names under which the log has what `loss` reports, and `columns`, which of them are printed;
- `per_token`, whether `main/loss` is in nats per token;
- `goes_on`, whether what it starts from is a captioner already, whose captions are worth scoring.
"""
from chainer_caption.training.objectives.cross_entropy import CrossEntropy, CrossEntropyByImage
from chainer_caption.training.objectives.self_critical import SelfCritical

#: The objectives, by their names in `Settings`.
OBJECTIVES = {'cross-entropy': CrossEntropy, 'self-critical': SelfCritical}

#: Those that see each image of a minibatch once.
BY_IMAGE = {'cross-entropy': CrossEntropyByImage, 'self-critical': SelfCritical}

__all__ = ['BY_IMAGE', 'OBJECTIVES', 'CrossEntropy', 'CrossEntropyByImage', 'SelfCritical']
