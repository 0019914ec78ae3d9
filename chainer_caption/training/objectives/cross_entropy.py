"""The words that people wrote: each is to be likely after those before it."""
import math

from chainer_caption.data.batches import MAX_WORDS, CaptionDataset, CaptionIterator
from chainer_caption.training.objectives.image_batches import Images, word_loss


class CrossEntropy:
    """Nats per word of the training captions.

    Args:
        dataset (Dataset): Whose training captions.
        current (Bundle): What is trained: a model that is called as `ShowAndTell` is, and the vocabulary.
        settings (Settings): How.
        converter (PackCaptions): Makes the model's arguments.
        processes (Processes): Those that train together.
        say (callable): Takes a notice.
    """
    reports = 'main/loss', 'main/accuracy'
    columns = 'main/loss',
    per_token = True
    goes_on = False

    def __init__(self, dataset, current, settings, converter, processes, say):
        data = CaptionDataset.from_dataset(dataset, current.vocabulary, *dataset.training_splits)
        _tell_overlong(data, say)
        self.iterator = CaptionIterator(data, settings.batch_size, seed=settings.seed,
                                        per_image=getattr(current.model, 'per_image', False))
        self.converter = converter
        self.captions = len(data)
        self._model, self._seed, self._processes = current.model, settings.seed, processes

    def loss(self, update, *batch):
        return self._model(*batch, update_key=(self._seed, self._processes.number(update)))


class CrossEntropyByImage:
    """The same by minibatches of images with all their captions, about `batch_size` of them: the encoder that sees
    the images runs once for each.

    Args: as for `CrossEntropy`; the converter may be a `OnlineFeatures`.
    """
    reports, columns, per_token = CrossEntropy.reports, CrossEntropy.columns, CrossEntropy.per_token
    goes_on = True

    def __init__(self, dataset, current, settings, converter, processes, say):
        self._images = Images(dataset, current, converter, processes)
        _tell_overlong(self._images.data, say)
        self.captions = len(self._images.data)
        self._images.begin(round(settings.batch_size * len(self._images) / self.captions), settings.seed)
        self.iterator, self.converter = self._images.iterator, self._images.converter
        self._model, self._seed, self._processes = current.model, settings.seed, processes

    def loss(self, update, numbers):
        data, bounds = self._images.data, self._images.bounds
        places, features, own = self._images.get(update, numbers)
        captions = [[data[i][1] for i in range(bounds[number], bounds[number + 1])] for number in numbers[places]]
        # Every token of the whole minibatch weighs the same, as for PackShare.
        tokens = sum(int(data.lengths[bounds[number]:bounds[number + 1]].sum()) for number in numbers)
        return word_loss(self._model, features, [i for i, of in enumerate(captions) for _ in of],
                         [caption for of in captions for caption in of],
                         tokens / self._processes.size if own else math.inf,
                         (self._seed, self._processes.number(update)))


def _tell_overlong(data, say):
    if data.overlong:
        say(f'{data.overlong} captions are longer than {MAX_WORDS} words and are trained on without what is over')
