"""Captions that score well: the model draws its own, and those that earn more than the others become likelier."""
import math

import chainer
import numpy as np
from chainer import as_array

from chainer_caption.data.vocabulary import EOS, SPECIAL
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.cider import SINGLE
from chainer_caption.evaluation.metrics.reward import CiderReward
from chainer_caption.functions import mask_key
from chainer_caption.functions.dropout import apply_mask
from chainer_caption.training.objectives.image_batches import Images, repeated, word_loss

#: Drawn captions are cut to so many tokens, `</S>` among them; people write a dozen words, of some characters each.
MAX_LENGTH = {'words': 30, 'characters': 90, 'katakana': 90}

# What is drawn from the seed and the number of the update, told apart from the masks of a model's dropouts.
_CAPTIONS, _REFERENCES, _FEATURES = 1001, 1002, 1004


class SelfCritical:
    """The expected CIDEr-D of captions that are drawn from the model (Rennie et al., "Self-critical sequence training
    for image captioning", CVPR 2017).

    A minibatch is `batch_size // samples` images (at least one), with `samples` captions drawn for each; an epoch has
    every training image once. The loss is minus the mean over captions of (reward - baseline) * log p(caption). It is
    divided by the captions and not by their words: only so is its gradient, on average, that of the expected reward;
    divided by words, it would pay for long captions. The baseline is the mean reward of the image's other samples, or
    the reward of its greedy caption.

    A caption is cut at MAX_LENGTH. `</S>` is a word of the reward, so that a caption pays for not ending, and
    document frequencies are those of the training captions. `xe_weight` adds so many times the loss of `CrossEntropy`
    of one of each image's references, drawn anew for each update.

    What speaks is what learns: there is dropout of the images' features alone, by the model's ratio and with the same
    mask for all captions of an image, drawn and learned from. Without it the model learns its few training images by
    heart, and what the reward gains there is lost on others.

    Reports `loss`, `reward` (the mean CIDEr-D of the drawn captions, from 0 to 10) and `length` (the mean of their
    words, without `</S>`).

    Args: as for `CrossEntropy`; the model is a `Speaker`, and the converter may be a `OnlineFeatures`.

    Raises:
        InputError: There is a single image.
    """
    reports = 'main/loss', 'main/reward', 'main/length'
    columns = reports
    per_token = False
    goes_on = True

    def __init__(self, dataset, current, settings, converter, processes, say):
        self._longest = MAX_LENGTH[current.tokenizer]
        self._model, self._settings, self._processes = current.model, settings, processes
        self._images = Images(dataset, current, converter, processes)
        if len(self._images) == 1:
            raise InputError(f'{dataset.dataset_path}: {SINGLE}; self-critical training needs two or more')
        spoken = ([[*words, SPECIAL[EOS]] for words in dataset.references(image) if words]
                  for image in dataset.images(*dataset.training_splits))
        self._reward = CiderReward([references for references in spoken if references], current.vocabulary.words)
        self._images.begin(settings.batch_size // settings.samples, settings.seed)
        self.iterator, self.converter = self._images.iterator, self._images.converter
        self.captions = len(self._images) * settings.samples

    def loss(self, update, images):
        model, samples = self._model, self._settings.samples
        places, features, own = self._images.get(update, images)
        # The losses of all processes' shares have the mean that a single process would find.
        captions = len(images) * samples / self._processes.size if own else math.inf
        seen = self._with_dropout(update, features, places, len(images))
        each = repeated(seen, np.repeat(np.arange(len(places)), samples), model.device)
        numbers = (places[:, None] * samples + np.arange(samples)).reshape(-1)
        key = mask_key(self._settings.seed, update, _CAPTIONS)
        sampled = model.sample(as_array(each), key, self._longest, numbers)
        rewards = np.empty(len(numbers))
        rewards[sampled.order] = self._reward(sampled.captions, images[numbers[sampled.order] // samples])
        rewards = rewards.reshape(-1, samples)
        if self._settings.baseline == 'greedy':
            baseline = self._reward(model.greedy(as_array(seen), self._longest), images[places])[:, None]
        else:
            baseline = mean_of_others(rewards)
        weights = ((rewards - baseline) / captions).reshape(-1).astype(np.float32)
        loss = model.sampled_loss(each, sampled, weights)
        if self._settings.xe_weight:
            loss += self._settings.xe_weight * self._word_loss(update, images, places, features, own)
        length = sum(len(caption) - (caption[-1] == EOS) for caption in sampled.captions)
        chainer.report({'loss': loss, 'reward': rewards.sum() / captions, 'length': length / captions}, model)
        return loss

    def _with_dropout(self, update, features, places, count):
        """The features of some of a minibatch's images; the mask is made for all, as each process has to."""
        ratio = self._settings.dropout
        if not ratio:
            return features
        key = mask_key(self._settings.seed, update, _FEATURES)
        mask = apply_mask(np.ones((count, *features.shape[1:]), np.float32), ratio, key)
        return features * self._model.device.send(mask[places])

    def _word_loss(self, update, images, places, features, own):
        """The loss of one reference of each image."""
        data, bounds = self._images.data, self._images.bounds
        rng = np.random.default_rng((self._settings.seed, update, _REFERENCES))
        chosen = rng.integers(bounds[images], bounds[images + 1])
        tokens = int(data.lengths[chosen].sum()) / self._processes.size if own else math.inf
        # What the model reports of it is not the loss of this training.
        with chainer.using_config('train', False), chainer.reporter.report_scope({}):
            return word_loss(self._model, features, np.arange(len(places)), [data[i][1] for i in chosen[places]],
                             tokens)


def mean_of_others(rewards):
    """For each sample the mean reward of the others of its image.

    Args:
        rewards (numpy.ndarray): (images, samples), at least two samples.

    Returns:
        numpy.ndarray: Of the same shape.
    """
    return (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
