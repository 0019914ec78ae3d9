"""Captions of the validation pictures while a model is trained, and how good they are."""
import dataclasses
import math

import chainer
import numpy as np

from chainer_caption.captioner import Caption, Captioner
from chainer_caption.extensions.epochs import EveryEpochs
from chainer_caption.extensions.log import SAMPLES
from chainer_caption.metrics import Scorer
from chainer_caption.report.rows import row_of

SPLIT = 'val'

# Narrower than what captions are finally made with: the epochs are compared with each other, and a beam of 3 costs a
# fifth of one of 20.
BEAM_WIDTH = 3

# So many pictures' captions are logged.
_SAMPLED = 5

_NOTHING = Caption([], math.nan, math.nan, False)

# What is reported, and what the metrics call it.
_REPORTED = {'validation/main/cider': 'CIDEr', 'validation/main/bleu4': 'BLEU-4'}


class CaptionScores(chainer.training.Extension):
    """Captions the validation pictures as the model is, free-running, and scores the captions.

    Reports `validation/main/cider` and `validation/main/bleu4`, fractions, as `evaluate.py --split val --beam-widths 3`
    gives them, and observes `samples`, the captions of the same few pictures each time, for the log. Nothing in it is
    random, and it changes nothing that training goes on with.

    Args:
        current (Bundle): What is trained.
        release (Release): Whose `val` is captioned, by its stored features.
        device (chainer.backend.Device): Where the model is.
        every (int): Epochs from one scoring to the next.
        processes (Processes): Those that share the pictures; all of them call it, process 0 reports.
    """
    # Together with the evaluator.
    priority = chainer.training.PRIORITY_WRITER
    keys = tuple(_REPORTED)

    def __init__(self, current, release, device, every, processes):
        self.trigger = EveryEpochs(every)
        self._bundle, self._release, self._device, self._processes = current, release, device, processes
        pictures = release.pictures(SPLIT)
        self._described = np.diff(release.captions.sentences)[pictures] > 0
        self._scorer = Scorer([release.references(picture) for picture in pictures[self._described]],
                              ('BLEU', 'CIDEr'))
        count = np.count_nonzero(self._described)
        # The same in every epoch and every run: spread evenly over the split.
        self._sampled = np.linspace(0, count - 1, min(_SAMPLED, count)).round().astype(int)

    def __call__(self, trainer):
        # A captioner computes much from the weights once, so that each scoring wants its own.
        captioner = Captioner(self._bundle, self._device)
        found = captioner.caption_release(self._release, SPLIT, width=BEAM_WIDTH, top=1)
        results = [_with_caption(result) for result, described in zip(found, self._described, strict=True) if described]
        figures, _ = self._scorer.score([result.captions[0].tokens for result in results])
        chainer.report({key: figures[name] for key, name in _REPORTED.items()})
        trainer.observation[SAMPLES] = [_sample(results[i]) for i in self._sampled]


def _with_caption(result):
    # A model that has diverged finds none; it said nothing then.
    return result if result.captions else dataclasses.replace(result, captions=[_NOTHING])


def _sample(result):
    row = row_of(result)
    caption = row.pop('captions')[0]
    del caption['tokens']
    return {**row, **caption}
