"""Beam search: the best captions of many images at once.

A hypothesis scores the sum of the log-probabilities of its words and of its `</S>`. Finished hypotheses keep their
place in the beam; the search of an image ends when its `top` best are finished and nothing alive can pass them, which
is exact, because a score only falls as words are added.
"""
import dataclasses

import numpy as np

from chainer_caption.data.vocabulary import BOS, EOS
from chainer_caption.decoding.search import Hypothesis, Search
from chainer_caption.errors import InputError
from chainer_caption.functions.topk import beam_topk

# Below this products of weights and log-probabilities would be rounded to nothing.
_LEAST_WEIGHT = 1e-290


@dataclasses.dataclass(frozen=True)
class BeamSearch(Search):
    """Finds the best captions of images::

        BeamSearch(width=5)(stepper, features)

    Attributes:
        width (int): Hypotheses kept for each image; 1 is greedy search.
        top (int): Captions returned for each image, at most `width`; by default 5, or the width if that is less.
        length_normalization (float): Hypotheses are compared by log_prob / (words + 1) ** length_normalization (Wu et
            al. 2016, in its plain form); 0 compares log-probabilities, 1 log-probabilities per token.
        max_length, min_length, no_repeat_ngram, allow_unk: See `Search`. A hypothesis of the greatest length is
            finished if `</S>` is its likeliest continuation, and cut if not.

    Raises:
        InputError: One is impossible, or two contradict each other.
    """
    lighter = 'lower --beam-width'

    width: int = 20
    top: int | None = None
    length_normalization: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.width < 1:
            raise InputError(f'--beam-width {self.width}: must be at least 1')
        if self.top is None:
            object.__setattr__(self, 'top', min(5, self.width))
        if not 1 <= self.top <= self.width:
            raise InputError(f'--top {self.top}: must be at least 1 and at most the beam width, {self.width}')
        if not 0 <= self.length_normalization < float('inf'):
            raise InputError(f'--length-normalization {self.length_normalization}: must be a number and not negative')
        if self.weight(self.max_length + 1) < _LEAST_WEIGHT:
            raise InputError(f'--length-normalization {self.length_normalization:g}: too large to compare captions of '
                             f'up to {self.max_length} words by; 0 to 2 are usual')

    def weight(self, tokens):
        """What log-probabilities of so many tokens, `</S>` among them, are multiplied by to be compared with others."""
        return tokens ** -float(self.length_normalization)

    def __str__(self):
        normalized = f', A {self.length_normalization:g}' if self.length_normalization else ''
        return f'beam {self.width}{normalized}'

    def __call__(self, stepper, features):
        """Searches.

        Args:
            stepper (Stepper): The model.
            features (array): (n, D) float32 on the model's device.

        Returns:
            list of list of Hypothesis: For each image its captions, best first: `top`, or fewer where there are no
            more.
        """
        found = []
        for part in self.parts(stepper, features, self.width):
            state = stepper.start(part)
            beams = Beams(self, len(part[0]) if isinstance(part, tuple) else len(part))
            parents, read = beams.first()
            while len(parents):
                state, scores = stepper.step(state, parents, read)
                parents, read = beams.advance(scores, stepper.bias)
            found += beams.found
        return found


class Beams:
    """The beams of some images, while they are searched.

    The beam of each image is a row of `score`, `alive` and so on, best first. What is alive in all beams are the
    rows of the model's state, in the same order.

    Args:
        search (BeamSearch): What is searched for.
        count (int): How many images there are.

    Attributes:
        found (list): For each image its hypotheses, best first, when it is done.
        images (numpy.ndarray): Those that are not done, (n,) int.
        alive (numpy.ndarray): Which places of their beams hold what goes on, (n, places) bool.
    """

    def __init__(self, search, count):
        self.search = search
        self.images = np.arange(count)
        self.found = [None] * count
        # One hypothesis an image to begin with: nothing said.
        self.alive = np.ones((count, 1), bool)
        self._log_prob = np.zeros((count, 1))
        self._score = np.zeros((count, 1))
        # The words so far of each hypothesis; -1 after its end.
        self._words = np.zeros((count, 1, 0), np.int32)

    def first(self):
        """As `advance`, before there are any scores."""
        return np.arange(len(self.images)), np.full(len(self.images), BOS)

    def advance(self, scores, bias, penalized=None, penalty=0.0):
        """Makes the beams a word longer, and drops the images that are done.

        Args:
            scores (array): Of what may follow each hypothesis that is alive, without the biases, (m, V) float32.
            bias (array): The biases, (V,) float32.
            penalized (numpy.ndarray or None): For each of them words that are to be avoided, -1 for none: (m, b) int.
            penalty (float): What a word among them loses, nats, as often as it is there. It counts in this choice
                alone.

        Returns:
            tuple: `(parents, words)` for the next step: which of the m each hypothesis continues that is alive now, and
            the word that it reads; both (n,) int, and empty when all images are done.
        """
        length = self._words.shape[2] + 1
        avoided = self.search.repeated(self._words[self.alive])
        penalties = avoided, np.full(avoided.shape, np.inf)
        if length > self.search.max_length:
            self._end_at_greatest_length(scores, bias, penalties)
            return np.zeros((2, 0), int)
        search = self.search
        weight = search.weight(length)
        if penalized is not None:
            penalties = tuple(np.concatenate(pair, axis=1) for pair in zip(penalties, (penalized,
                                                                                       np.full(penalized.shape,
                                                                                               penalty)),
                                                                       strict=True))
        # The finished compete with what the alive become; the worst place that they hold is the threshold to beat. And
        # where scores only fall, what is not above the finished one that is last to be returned never will be.
        kept = np.where(self.alive, -np.inf, self._score)
        threshold = np.full(len(kept), -np.inf)
        place = search.width if search.length_normalization else search.top
        if kept.shape[1] >= place:
            threshold = np.sort(kept, axis=1)[:, -place]
        bounds = np.concatenate([[0], np.cumsum(self.alive.sum(axis=1))])
        new, new_parent, new_word = beam_topk(scores, bias, self._log_prob[self.alive], bounds, search.width, threshold,
                                           weight, search.suppressed(length), penalties)
        merged = np.concatenate([kept, new], axis=1)
        order = np.argsort(-merged, axis=1, kind='stable')[:, :search.width]
        if penalized is not None:
            # Chosen they are worth what they were worth before.
            new = new + weight * penalty * (penalized[new_parent] == new_word[..., None]).sum(axis=2)
            merged = np.concatenate([kept, new], axis=1)
            chosen = np.take_along_axis(merged, order, 1)
            order = np.take_along_axis(order, np.argsort(-chosen, axis=1, kind='stable'), 1)
        rows = np.arange(len(merged))[:, None]
        score = merged[rows, order]
        # Columns of `merged` are the old beam, then the continuations.
        old = kept.shape[1]
        grown = order >= old
        column = np.where(grown, order - old, 0)
        parent_row = new_parent[rows, column]           # a row of the state
        word = np.where(grown, new_word[rows, column], -1)
        slot_of_row = np.nonzero(self.alive)[1]
        slot = np.where(grown, slot_of_row[parent_row], np.minimum(order, old - 1))
        there = score > -np.inf
        self._words = np.concatenate([self._words[rows, slot], np.where(word == EOS, -1, word)[..., None]], axis=2)
        self._log_prob = np.where(grown, score / weight, self._log_prob[rows, slot])
        self._score = score
        self.alive = there & grown & (word != EOS)
        return self._drop_done(parent_row, word)

    def _drop_done(self, parent_row, word):
        # The best that a hypothesis alive can still become: its own log-probability, over the greatest length.
        bound = np.where(self.alive, self._log_prob * self.search.weight(self.search.max_length + 1), -np.inf)
        finished = np.where(self.alive, -np.inf, self._score)
        place = min(self.search.top, self._score.shape[1])
        done = -np.sort(-finished, axis=1)[:, place - 1] >= bound.max(axis=1)
        if self._score.shape[1] < self.search.top:
            done &= ~self.alive.any(axis=1)
        for i in np.flatnonzero(done):
            self._keep(i)
        left = ~done
        self.images, self._words = self.images[left], self._words[left]
        self._log_prob, self._score, self.alive = self._log_prob[left], self._score[left], self.alive[left]
        return parent_row[left][self.alive], word[left][self.alive]

    def _end_at_greatest_length(self, scores, bias, penalties):
        """Ends what is alive with `</S>` where that is its likeliest continuation, and cuts the rest."""
        bounds = np.arange(self.alive.sum() + 1)
        best, _, word = beam_topk(scores, bias, self._log_prob[self.alive], bounds, 1, np.full(len(bounds) - 1,
                                                                                               -np.inf),
                               1.0, self.search.suppressed(self.search.max_length + 1), penalties)
        ends = word[:, 0] == EOS
        log_prob = np.where(ends, best[:, 0], self._log_prob[self.alive])
        cut = self.alive.copy()
        cut[self.alive] = ~ends
        self._log_prob[self.alive] = log_prob
        self._score[self.alive] = log_prob * self.search.weight(self.search.max_length + ends)
        for i in range(len(self.images)):
            self._keep(i, cut[i])
        self.images, self.alive = self.images[:0], self.alive[:0]

    def _keep(self, i, cut=None):
        order = np.argsort(-self._score[i], kind='stable')[:self.search.top]
        self.found[self.images[i]] = [
            Hypothesis([int(w) for w in self._words[i, k] if w >= 0], float(self._log_prob[i, k]),
                       bool(cut is None or not cut[k]))
            for k in order if self._score[i, k] > -np.inf]
