"""The words that people wrote: each is to be likely after those before it."""
from chainer_caption.data.batches import MAX_WORDS, CaptionDataset, CaptionIterator


class Words:
    """Nats per word of the training captions.

    Args:
        release (Release): Whose training captions.
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

    def __init__(self, release, current, settings, converter, processes, say):
        data = CaptionDataset.from_release(release, current.vocabulary, *release.training_splits)
        if data.overlong:
            say(f'{data.overlong} captions are longer than {MAX_WORDS} words and are trained on without what is over')
        self.iterator = CaptionIterator(data, settings.batch_size, seed=settings.seed,
                                        per_picture=getattr(current.model, 'per_picture', False))
        self.converter = converter
        self.captions = len(data)
        self._model, self._seed, self._processes = current.model, settings.seed, processes

    def loss(self, update, *batch):
        return self._model(*batch, update_key=(self._seed, self._processes.number(update)))
