"""Captions of the validation images during training, and their scores."""
from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import chainer
import numpy as np

from chainer_caption.captioning import Caption, Captioner
from chainer_caption.data import SPLITS
from chainer_caption.decoding import BeamSearch
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics import Scorer
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.report.rows import row_of
from chainer_caption.training.extensions.epochs import EveryEpochs
from chainer_caption.training.extensions.log import SAMPLES

SPLIT = 'val'

# A narrow beam: epochs are only compared with each other, and a beam of 3 costs a fifth of one of 20.
SEARCH = BeamSearch(width=3, top=1)

# So many images' captions are logged.
_SAMPLED = 5

_NOTHING = Caption([], math.nan, math.nan, False)

# What is reported, and its name among the metrics.
_REPORTED = {'validation/main/cider': 'CIDEr', 'validation/main/bleu4': 'BLEU-4'}


def scored_images(dataset: Any) -> np.ndarray:
    """The images of `val` that have references, as places in `dataset.captions.filenames`: (n,) int."""
    captions = dataset.captions
    return np.flatnonzero((captions.splits == SPLITS.index(SPLIT)) & (np.diff(captions.sentences) > 0))


class CaptionScores(chainer.training.Extension):
    """Captions the validation images and scores the captions.

    Reports `validation/main/cider` and `validation/main/bleu4`, fractions, as `chainer-caption evaluate --split val
    --beam-widths 3` computes them, and `samples`, the captions of the same few images each time, for the log. It is
    deterministic and does not affect training.

    Args:
        current: Bundle that is trained.
        dataset: Dataset whose `val` is captioned, from its stored features.
        device: Chainer device of the model.
        every: Epochs from one scoring to the next.
        processes: Processes that share the images; process 0 scores for all. None for this one alone.
        weights: Gives a context manager within which the model has the weights that are scored.
        start: Score before the first update, too, as the log's entry of epoch 0.

    Raises:
        InputError: A Captioner cannot use the model.
    """
    # Together with the evaluator.
    priority = chainer.training.PRIORITY_WRITER
    keys = tuple(_REPORTED)

    def __init__(self, current: Bundle, dataset: Any, device: Any, every: int = 1, processes: Processes | None = None,
                 weights: Callable[[], Any] = contextlib.nullcontext, start: bool = False) -> None:
        self.trigger = EveryEpochs(every)
        self._start = start
        self._bundle, self._dataset, self._device = current, dataset, device
        try:
            Captioner(current, device)
        except AttributeError as e:                     # a user's own model; better now than after an epoch
            raise InputError(f'a {type(current.model).__name__} cannot be searched for captions ({e}); train it with '
                             'score_every=0') from e
        self._processes = processes or Processes()
        self._weights = weights
        self._images = scored_images(dataset)
        self._scorer = Scorer([dataset.references(image) for image in self._images], ('BLEU', 'CIDEr'))
        # The same in every epoch and every run: spread evenly over the split.
        count = len(self._images)
        self._sampled = np.linspace(0, count - 1, min(_SAMPLED, count)).round().astype(int)

    def initialize(self, trainer: Any) -> None:
        log = trainer.get_extension('LogReport').log
        if self._start and not log and trainer.updater.iteration == 0:
            log.append({**self._scores(), 'epoch': 0, 'iteration': 0, 'elapsed_time': 0.0})

    def __call__(self, trainer: Any) -> None:
        chainer.report(self._scores())

    def _scores(self) -> dict:
        # A new captioner each time: it prepares arrays from the weights once.
        with self._weights():
            captioner = Captioner(self._bundle, self._device)
            mine = captioner.caption_images(self._dataset, self._processes.share(self._images), SEARCH)
            results = [_with_caption(result) for result in mine]
        shares = self._processes.gather(results)
        return self._processes.broadcast(shares and self._score(shares))

    def _score(self, shares: list[list[Any]]) -> dict:
        results: list[Any] = [None] * len(self._images)
        for rank, share in enumerate(shares):
            results[rank::len(shares)] = share
        figures, _ = self._scorer.score([result.captions[0].tokens for result in results])
        return {**{key: figures[name] for key, name in _REPORTED.items()},
                SAMPLES: [_sample(results[i]) for i in self._sampled]}


def _with_caption(result: Any) -> Any:
    # A model that has diverged finds no caption, which counts as an empty one.
    return result if result.captions else dataclasses.replace(result, captions=[_NOTHING], error=None)


def _sample(result: Any) -> dict:
    row = row_of(result)
    caption = row.pop('captions')[0]
    del caption['tokens']
    return {**row, **caption}
