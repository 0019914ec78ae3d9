"""Self-critical sequence training (SCST): sampled captions with a high CIDEr become more likely."""
import dataclasses
import math
from typing import Any

import chainer
import numpy as np
from chainer import as_array

from chainer_caption.data.vocabulary import EOS
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.cider import SINGLE
from chainer_caption.evaluation.metrics.reward import training_reward
from chainer_caption.functions import apply_mask, map_inputs, mask_key
from chainer_caption.training.objectives.image_batches import Images, repeated
from chainer_caption.training.updater import Objective, Say, register_objective

#: Sampled captions are cut to so many tokens, `</S>` included. References have a dozen words of some characters each.
MAX_LENGTH = {'words': 30, 'characters': 90, 'katakana': 90}
# Random streams of an update, distinct from the dropout masks of a model.
_CAPTIONS, _REFERENCES, _FEATURES = 1001, 1002, 1004


@register_objective('self-critical')
@dataclasses.dataclass
class SelfCritical(Objective):
    """The expected CIDEr-D of captions sampled from the model (Rennie et al., "Self-critical sequence training for
    image captioning", CVPR 2017).

    A minibatch is `batch_size // samples` images (at least one), with `samples` sampled captions each; an epoch has
    every training image once. The loss is minus the mean over captions of (reward - baseline) * log p(caption). It is
    divided by the number of captions, not of words: only then is its gradient an unbiased estimate of the gradient of
    the expected reward. Dividing by words would reward long captions.

    A caption is cut at MAX_LENGTH. `</S>` counts as a word of the reward, so that an unfinished caption has a lower
    one. Document frequencies are those of the training captions. In each update the cross-entropy term has one
    reference of each image, chosen at random.

    Dropout is applied to the image features only, with the model's ratio and the same mask for all captions of an
    image, both when sampling and when computing gradients. Without it the model overfits the training images.
    Reports `loss`, `reward` (mean CIDEr-D of the sampled captions, 0 to 10) and `length` (their mean number of words,
    without `</S>`).
    """
    #: `'others'`, the mean reward of the image's other samples, or `'greedy'`, the reward of its greedy caption.
    baseline: str = 'others'
    samples: int = 5            #: captions sampled for an image
    xe_weight: float = 1.0      #: weight of the cross-entropy term

    reports = 'main/loss', 'main/reward', 'main/length'
    columns = reports
    requires_model = True
    by_image = True
    learning_rate = 2e-4
    keep_best = 'cider'

    def __post_init__(self) -> None:
        if self.baseline == 'others' and self.samples == 1:
            raise InputError.of('samples', 1, 'there are no other samples to compare a caption with; take 2 or more, '
                                'or the baseline greedy')

    def check(self, dataset: Any, bundle: Any) -> None:
        if not hasattr(bundle.model, 'sampled_loss'):
            raise InputError.of('objective', self.name, f'the model {type(bundle.model).__name__} cannot sample '
                                'captions; train it with cross-entropy')
        rows, *_ = dataset.sentences(*dataset.training_splits)
        if len(np.unique(rows)) == 1:
            raise InputError(f'{dataset.dataset_path}: {SINGLE}; {self.name} training needs two images or more')

    def setup(self, dataset: Any, bundle: Any, settings: Any, converter: Any, processes: Any, notice: Say) -> None:
        self._longest = MAX_LENGTH[bundle.tokenizer]
        self._model, self._settings, self._processes = bundle.model, settings, processes
        self._images = Images(dataset, bundle, converter, processes)
        self._reward = processes.one_after_another(lambda: training_reward(dataset, bundle.vocabulary.words))
        weights = dataset.weights(self._images.rows, settings.weights) if settings.weights else None
        self._images.begin(settings.batch_size // self.samples, settings.seed, weights)
        self.iterator, self.converter = self._images.iterator, self._images.converter
        self.captions = self._images.iterator.examples * self.samples

    def loss(self, update: int, *batch: Any) -> chainer.Variable:
        images, model, samples = batch[0], self._model, self.samples
        places, features, own = self._images.get(update, images)
        # The mean over processes is the loss of the whole minibatch.
        captions = len(images) * samples / self._processes.size if own else math.inf
        dropped = self._with_dropout(update, features, places, len(images))
        each = repeated(dropped, np.repeat(np.arange(len(places)), samples), model.device)
        numbers = (places[:, None] * samples + np.arange(samples)).reshape(-1)
        key = mask_key(self._settings.seed, update, _CAPTIONS)
        sampled = model.sample(map_inputs(as_array, each), key, self._longest, numbers)
        found = np.empty(len(numbers))
        found[sampled.order] = self._reward(sampled.captions, images[numbers[sampled.order] // samples])
        rewards = found.reshape(-1, samples)
        if self.baseline == 'greedy':
            baseline = self._reward(model.greedy(map_inputs(as_array, dropped), self._longest), images[places])[:, None]
        else:
            baseline = mean_of_others(rewards)
        weights = ((rewards - baseline) / captions).reshape(-1).astype(np.float32)
        loss = model.sampled_loss(each, sampled, weights)
        if self.xe_weight:
            loss += self.xe_weight * self._cross_entropy(update, images, places, features, own)
        length = sum(len(caption) - (caption[-1] == EOS) for caption in sampled.captions)
        chainer.report({'loss': loss, 'reward': rewards.sum() / captions, 'length': length / captions}, model)
        return loss

    def _with_dropout(self, update: int, features: Any, places: np.ndarray, count: int) -> Any:
        """Dropout of the features of a share; the mask is made for the whole minibatch, as in every process."""
        if not self._settings.dropout:
            return features
        if isinstance(features, tuple):
            return tuple(self._with_dropout(update, each, places, count) for each in features)
        key = mask_key(self._settings.seed, update, _FEATURES)
        mask = apply_mask(np.ones((count, *features.shape[1:]), np.float32), self._settings.dropout, key)
        return features * self._model.device.send(mask[places])

    def _cross_entropy(self, update: int, images: np.ndarray, places: np.ndarray, features: Any,
                       own: bool) -> chainer.Variable:
        """The cross-entropy of one reference of each image, nats per token."""
        bounds = self._images.bounds
        rng = np.random.default_rng((self._settings.seed, update, _REFERENCES))
        chosen = rng.integers(bounds[images], bounds[images + 1])
        batch = self._images.pack(features, range(len(places)), chosen[places], self._images.tokens(chosen, own))
        # The model reports this term as its loss; the log has that of the objective.
        with chainer.using_config('train', False), chainer.reporter.report_scope({}):
            return self._model(*batch)


def mean_of_others(rewards: np.ndarray) -> np.ndarray:
    """For each sample the mean reward of the image's other samples, (images, samples) with at least two samples."""
    return (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
