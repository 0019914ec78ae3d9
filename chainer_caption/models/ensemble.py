"""Several models as one: at each step the mean of the probabilities that they give to the next word."""
import numpy as np
from chainer.backends import cuda

from chainer_caption.errors import InputError
from chainer_caption.functions.compiled import compiled, exp, parallel_for
from chainer_caption.models.provenance import provenance_text


class EnsembleStepper:
    """Steppers of the same vocabulary as one stepper, for any search.

    The score of a word is the logarithm of the mean of the models' probabilities, and there are no biases.

    Args:
        steppers (list of Stepper): Those of the models, on one device.
    """

    def __init__(self, steppers):
        self._steppers = steppers
        self.device = steppers[0].device
        #: Zeros, (V,) float32: the scores have everything.
        self.bias = self.device.xp.zeros_like(steppers[0].bias)

    def start(self, features):
        """The states of the models, a list; see `Stepper.start`."""
        return [stepper.start(features) for stepper in self._steppers]

    def step(self, state, parents, words):
        """Reads one word in each of some hypotheses, as `Stepper.step` does."""
        mean, states = None, []
        for stepper, before in zip(self._steppers, state, strict=True):
            after, scores = stepper.step(before, parents, words)
            states.append(after)
            mean = self.device.xp.zeros_like(scores) if mean is None else mean
            _add_probabilities(scores, stepper.bias, np.float32(1 / len(self._steppers)), mean)
        return states, self.device.xp.log(mean, out=mean)


def _add_probabilities(scores, bias, share, mean):
    """Adds `share` times softmax(scores + bias) to `mean`, (n, V); `scores` are used up."""
    if not isinstance(scores, cuda.ndarray):
        parallel_for(_add, len(scores), scores, bias, share, mean)
        return
    scores += bias
    scores -= scores.max(axis=1, keepdims=True)
    cuda.cupy.exp(scores, out=scores)
    scores *= share / scores.sum(axis=1, keepdims=True)
    mean += scores


@compiled
def _add(scores, bias, share, mean, start, stop):
    for i in range(start, stop):
        row, into = scores[i], mean[i]
        top = np.float32(-np.inf)
        for j in range(len(row)):
            row[j] += bias[j]
            top = max(top, row[j])
        total = np.float32(0)
        for j in range(len(row)):
            row[j] = exp(row[j] - top)
            total += row[j]
        factor = share / total
        for j in range(len(row)):
            into[j] += factor * row[j]


def check_ensemble(bundles, names):
    """Checks that models can speak as one.

    Args:
        bundles (list of Bundle): The models; at least one.
        names (list of str): What to call each.

    Raises:
        InputError: They have other words, or learned from other features; the line names the first that does not fit.
    """
    first = bundles[0]
    for bundle, name in zip(bundles[1:], names[1:], strict=True):
        if (bundle.vocabulary.words, bundle.tokenizer) != (first.vocabulary.words, first.tokenizer):
            raise InputError(f'{name}: has another vocabulary than {names[0]}; only models with the same words can '
                             'caption together, as models trained on the same dataset with other seeds have')
        read, reads = (getattr(one.model, 'reads', 'vectors') for one in (bundle, first))
        if read != reads:
            raise InputError(f'{name}: reads {read}, but {names[0]} reads {reads}; an ensemble reads the same features')
        if bundle.model.feature_size != first.model.feature_size:
            raise InputError(f'{name}: learned from features of {bundle.model.feature_size} numbers, but {names[0]} '
                             f'from {first.model.feature_size}; an ensemble sees each image through one encoder')
        if bundle.provenance != first.provenance:
            raise InputError(f'{name}: learned from features of {provenance_text(bundle.provenance)}, but {names[0]} '
                             f'from '
                             f'those of {provenance_text(first.provenance)}; an ensemble sees each image through one '
                             f'encoder')
