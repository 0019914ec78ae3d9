"""Learning from text before images: epochs on captions without images precede those of an objective."""
import copy
from typing import Any

import chainer
import numpy as np

from chainer_caption.data.batches import CaptionIterator
from chainer_caption.data.text import Text
from chainer_caption.functions import map_inputs
from chainer_caption.training.updater import Objective, Say


class TextFirst(Objective):
    """Another objective, after some epochs of cross-entropy on a text without images (as Hendricks et al., "Deep
    compositional captioning", CVPR 2016, train the language model of theirs).

    Where there is no image its features are zero, of which the image's embedding keeps its bias only: its weights do
    not change, those of the words, the LSTM and the output layer learn. The optimizer, and its mean of the weights,
    start again with the images. Epochs are those of the other objective; the log has an entry of epoch 0 for each
    epoch of the text, with `text_loss` in nats per token.
    """

    def __init__(self, objective: Objective, text: Text) -> None:
        self._objective, self._text = objective, text
        for name in ('name', 'per_token', 'requires_model'):            # read by the trainer
            setattr(self, name, getattr(objective, name))
        for name in ('reports', 'columns'):
            setattr(self, name, (*getattr(objective, name), 'main/text_loss'))

    def setup(self, dataset: Any, bundle: Any, settings: Any, converter: Any, processes: Any, notice: Say) -> None:
        self._objective.setup(dataset, bundle, settings, converter, processes, notice)
        self._model, self._seed, self._processes = bundle.model, settings.seed, processes
        notice(f'{self._text.path}: {len(self._text):,} captions without images, in which '
               f'{self._text.unknown_share(bundle.vocabulary):.1%} of the words are not in the vocabulary (<UNK>)')
        text = CaptionIterator(self._text.examples(bundle.vocabulary), settings.batch_size, seed=settings.seed)
        self.iterator = TextThenImages(text, settings.text_epochs, self._objective.iterator)
        self.converter, self.captions = _Converter(converter, self._objective.converter), self._objective.captions

    def loss(self, update: int, *batch: Any) -> chainer.Variable:
        if update == self.iterator.text_updates:
            self._restart()
        if update >= self.iterator.text_updates:
            return self._objective.loss(update, *batch)
        # The model reports it as the loss that it has on images.
        with chainer.reporter.report_scope({}):
            loss = self._model(*batch, update_key=(self._seed, self._processes.number(update)))
        chainer.report({'text_loss': loss}, self._model)
        return loss

    def _restart(self) -> None:
        # Adam corrects its means for the number of updates. With those of the text, in which the image's weights have
        # no gradient, their first steps on images would be up to 6.5 times too large.
        for rule, param in ((param.update_rule, param) for param in self._model.params()):
            if rule is not None:
                rule.t = 0
                rule.init_state(param)


class TextThenImages(chainer.dataset.Iterator):
    """Minibatches of a text for some epochs of its own, then those of another iterator, whose epochs are counted.

    Attributes:
        text_updates: Number of the minibatches of the text.
        captions_before: Captions of the text in all its epochs.
    """

    def __init__(self, text: CaptionIterator, epochs: int, images: Any) -> None:
        self._text, self._epochs, self._images = text, epochs, images
        self.text_updates = epochs * text.batches_per_epoch
        self.captions_before = epochs * len(text.dataset)
        self.text_epoch_ended = False                   #: whether the last minibatch was the last of an epoch of text

    @property
    def in_text(self) -> bool:
        """Whether the next minibatch is one of the text."""
        return self._text.epoch < self._epochs

    @property
    def captions_done(self) -> int:
        """The captions of the text so far."""
        return round(self._text.epoch_detail * len(self._text.dataset))

    def __next__(self) -> list:
        if not self.in_text:
            self.text_epoch_ended = False
            return next(self._images)
        batch = _TextBatch(next(self._text))
        self.text_epoch_ended = self._text.is_new_epoch
        return batch

    next = __next__

    def __getattr__(self, name: str) -> Any:
        # `epoch`, `epoch_detail`, `previous_epoch_detail` and `is_new_epoch`, and what an objective gave its own.
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._images, name)

    def serialize(self, serializer: Any) -> None:
        self._text.serialize(serializer['text'])
        self._images.serialize(serializer)


class _TextBatch(list):
    """A minibatch without images."""


class _Converter(chainer.dataset.Converter):
    """Converts minibatches of text by a copy of `captions`, a PackCaptions, whose features are zeros, and others by
    `images`."""

    def __init__(self, captions: Any, images: Any) -> None:
        self._images, self._text = images, copy.copy(captions)
        self._text.features = map_inputs(lambda part: np.zeros((1, *part.shape[1:]), np.float32), captions.features)

    def __call__(self, batch: list, device: Any) -> Any:
        return (self._text if isinstance(batch, _TextBatch) else self._images)(batch, device)
