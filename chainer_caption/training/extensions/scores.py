"""Captions of the validation images while a model is trained, and how good they are."""
import contextlib
import dataclasses
import math

import chainer
import numpy as np

from chainer_caption.captioning import Caption, Captioner
from chainer_caption.data import SPLITS
from chainer_caption.decoding import BeamSearch
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics import Scorer
from chainer_caption.parallel import Processes
from chainer_caption.report.rows import row_of
from chainer_caption.training.extensions.epochs import EveryEpochs
from chainer_caption.training.extensions.log import SAMPLES

SPLIT = 'val'

# Narrower than what captions are finally made with: the epochs are compared with each other, and a beam of 3 costs a
# fifth of one of 20.
SEARCH = BeamSearch(width=3, top=1)

# So many images' captions are logged.
_SAMPLED = 5

_NOTHING = Caption([], math.nan, math.nan, False)

# What is reported, and what the metrics call it.
_REPORTED = {'validation/main/cider': 'CIDEr', 'validation/main/bleu4': 'BLEU-4'}


def scored_images(dataset):
    """The images of `val` that have captions to compare with, as places in `dataset.captions.filenames`: (n,) int."""
    captions = dataset.captions
    return np.flatnonzero((captions.splits == SPLITS.index(SPLIT)) & (np.diff(captions.sentences) > 0))


class CaptionScores(chainer.training.Extension):
    """Captions the validation images as the model is, free-running, and scores the captions.

    Reports `validation/main/cider` and `validation/main/bleu4`, fractions, as `evaluate.py --split val --beam-widths 3`
    gives them, and `samples`, the captions of the same few images each time, for the log. Nothing in it is
    random, and it changes nothing that training goes on with.

    With `start`, what training starts from is scored as well, and is the log's entry of epoch 0.

    Args:
        current (Bundle): What is trained.
        dataset (Dataset): Whose `val` is captioned, by its stored features.
        device (chainer.backend.Device): Where the model is.
        every (int): Epochs from one scoring to the next.
        processes (Processes or None): Those that share the images; process 0 scores for all. None: this one alone.
        weights (callable): Gives a context manager within which the model has the weights that are scored.
        start (bool): Whether to score before the first update, too.

    Raises:
        InputError: The model is none that a Captioner can caption with.
    """
    # Together with the evaluator.
    priority = chainer.training.PRIORITY_WRITER
    keys = tuple(_REPORTED)

    def __init__(self, current, dataset, device, every=1, processes=None, weights=contextlib.nullcontext, start=False):
        self.trigger = EveryEpochs(every)
        self._start = start
        self._bundle, self._dataset, self._device = current, dataset, device
        try:
            Captioner(current, device)
        except AttributeError as e:                     # a user's own; better now than after an epoch
            raise InputError(f'a {type(current.model).__name__} cannot be searched for captions ({e}); train it with '
                             'score_every=0') from e
        self._processes = processes or Processes()
        self._weights = weights
        self._images = scored_images(dataset)
        self._scorer = Scorer([dataset.references(image) for image in self._images], ('BLEU', 'CIDEr'))
        # The same in every epoch and every run: spread evenly over the split.
        count = len(self._images)
        self._sampled = np.linspace(0, count - 1, min(_SAMPLED, count)).round().astype(int)

    def initialize(self, trainer):
        log = trainer.get_extension('LogReport').log
        if self._start and not log and trainer.updater.iteration == 0:
            log.append({**self._scores(), 'epoch': 0, 'iteration': 0, 'elapsed_time': 0.0})

    def __call__(self, trainer):
        chainer.report(self._scores())

    def _scores(self):
        # A captioner computes much from the weights once, so that each scoring wants its own.
        with self._weights():
            captioner = Captioner(self._bundle, self._device)
            mine = captioner.caption_images(self._dataset, self._processes.share(self._images), SEARCH)
            said = [_with_caption(result) for result in mine]
        shares = self._processes.gather(said)
        return self._processes.broadcast(shares and self._score(shares))

    def _score(self, shares):
        results = [None] * len(self._images)
        for rank, share in enumerate(shares):
            results[rank::len(shares)] = share
        figures, _ = self._scorer.score([result.captions[0].tokens for result in results])
        return {**{key: figures[name] for key, name in _REPORTED.items()},
                SAMPLES: [_sample(results[i]) for i in self._sampled]}


def _with_caption(result):
    # A model that has diverged finds none; it said nothing then.
    return result if result.captions else dataclasses.replace(result, captions=[_NOTHING], error=None)


def _sample(result):
    row = row_of(result)
    caption = row.pop('captions')[0]
    del caption['tokens']
    return {**row, **caption}
