"""Validation during training: the loss on the captions of `val`, and captions of its images and their scores."""
import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import chainer
import numpy as np
from chainer.training import extensions

from chainer_caption.captioning import Caption, Captioner
from chainer_caption.data import SPLITS
from chainer_caption.decoding import BeamSearch
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics import Scorer
from chainer_caption.evaluation.perplexity import token_means
from chainer_caption.models.bundle import Bundle
from chainer_caption.parallel import Processes
from chainer_caption.report.rows import row_of
from chainer_caption.training.extensions.log import SAMPLES, EveryEpochs

SPLIT = 'val'

# A narrow beam: epochs are only compared with each other, and a beam of 3 costs a fifth of one of 20.
SEARCH = BeamSearch(width=3, top=1)
_SAMPLED = 5                                            # so many images' captions are logged
_NOTHING = Caption([], math.nan, math.nan, False)
# What is reported, and its name among the metrics.
_REPORTED = {'validation/main/cider': 'CIDEr', 'validation/main/bleu4': 'BLEU-4'}


def scored_images(dataset: Any) -> np.ndarray:
    """The images of `val` that have references, as places in `dataset.captions.filenames`: (n,) int."""
    captions = dataset.captions
    return np.flatnonzero((captions.splits == SPLITS.index(SPLIT)) & (np.diff(captions.sentences) > 0))


class TokenEvaluator(extensions.Evaluator):
    """Chainer's Evaluator with the same weight for every token, by `token_means`.

    Reports `validation/main/loss` (nats per token), `…/perplexity` and, if the model reports it, `…/accuracy`. The
    processes share the minibatches. Within the context manager that `weights` gives, the model has the weights that
    are validated."""
    trigger = 1, 'epoch'

    def __init__(self, *args: Any, processes: Processes, weights: Callable[[], Any] = contextlib.nullcontext,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processes, self._weights = processes, weights

    def evaluate(self) -> dict[str, float]:
        iterator = self.get_iterator('main')
        iterator.reset()
        mine = itertools.islice(iterator, self._processes.rank, None, self._processes.size)
        with self._weights():
            means = token_means(self.get_target('main'), (self.converter(batch, self.device) for batch in mine),
                                self._processes)
        # The trainer has named this extension: "validation".
        return {f'{self.name}/main/{name}': mean for name, mean in means.items()}


class CaptionScores(chainer.training.Extension):
    """Captions the validation images and scores the captions.

    Reports `validation/main/cider` and `validation/main/bleu4`, fractions, as `chainer-caption evaluate --split val
    --beam-widths 3` computes them, and `samples`, the captions of the same few images each time, for the log. It is
    deterministic and does not affect training.

    Args:
        current: Bundle that is trained, on the device; InputError is raised where a Captioner cannot use its model.
        dataset: Dataset whose `val` is captioned, from its stored features.
        every: Epochs from one scoring to the next.
        processes, weights: As for `TokenEvaluator`; process 0 scores for all.
        start: Score before the first update, too, as the log's entry of epoch 0.
    """
    priority = chainer.training.PRIORITY_WRITER         # together with the evaluator
    keys = tuple(_REPORTED)

    def __init__(self, current: Bundle, dataset: Any, device: Any, every: int = 1, processes: Processes | None = None,
                 weights: Callable[[], Any] = contextlib.nullcontext, start: bool = False) -> None:
        self.trigger, self._start = EveryEpochs(every), start
        self._bundle, self._dataset, self._device = current, dataset, device
        try:
            Captioner(current, device)
        except AttributeError as e:                     # a user's own model; better now than after an epoch
            raise InputError(f'a {type(current.model).__name__} cannot be searched for captions ({e}); train it with '
                             'score_every=0') from e
        self._processes, self._weights = processes or Processes(), weights
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
        with self._weights():
            captioner = Captioner(self._bundle, self._device)       # a new one: it prepares arrays from the weights
            mine = self._images[self._processes.rank::self._processes.size]
            shares = self._processes.gather([_with_caption(result) for result in captioner.caption_images(
                self._dataset, mine, SEARCH)])
        return self._processes.broadcast({} if shares is None else self._score(shares))

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
