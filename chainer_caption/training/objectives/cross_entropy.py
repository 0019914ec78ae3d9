"""Cross-entropy: each word of a reference caption is predicted from the words before it."""
from typing import Any

import chainer

from chainer_caption.data.batches import MAX_WORDS, CaptionDataset, CaptionIterator
from chainer_caption.training.updater import Objective, Say, register_objective


@register_objective('cross-entropy')
class CrossEntropy(Objective):
    """Cross-entropy of the training captions, in nats per token. The `model` is called as `ShowAndTell` is."""
    reports = 'main/loss', 'main/accuracy'
    per_token = True

    def setup(self, dataset: Any, bundle: Any, settings: Any, converter: Any, processes: Any, notice: Say) -> None:
        data = CaptionDataset.from_dataset(dataset, bundle.vocabulary, *dataset.training_splits)
        if data.overlong:
            notice(f'{data.overlong} captions have more than {MAX_WORDS} words; they are cut to that length')
        weights = dataset.weights(data.rows, settings.weights) if settings.weights else None
        self.iterator = CaptionIterator(data, settings.batch_size, seed=settings.seed, per_image=converter.per_image,
                                        weights=weights)
        self.converter, self.captions = converter, self.iterator.examples
        self.model, self._seed, self._processes = bundle.model, settings.seed, processes

    def loss(self, update: int, *batch: Any) -> chainer.Variable:
        return self.model(*batch, update_key=self.update_key(update))

    def update_key(self, update: int) -> tuple[int, int]:
        """Key of the model's dropout masks: the seed and a number that differs between updates and processes."""
        return self._seed, self._processes.number(update)
