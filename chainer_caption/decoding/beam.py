"""Beam search: the best captions of many pictures at once.

A hypothesis scores the sum of the log-probabilities of its words and of its `</S>`. Finished hypotheses keep their
place in the beam; the search of a picture ends when its `top` best are finished and nothing alive can pass them, which
is exact, because a score only falls as words are added.
"""
import dataclasses

import chainer
import numpy as np

from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.errors import InputError
from chainer_caption.functions.memory import free_bytes
from chainer_caption.functions.select import select

# What the scores of one step may take: bytes on the CPU, a few times its cache; on a GPU a share of what is free there,
# since those of two steps, states and gates are there at once. It bounds how many pictures are searched together.
_CPU_BYTES = 24 * 2 ** 20
_GPU_SHARE = 1 / 8

# Below this products of weights and log-probabilities would be rounded to nothing.
_LEAST_WEIGHT = 1e-290


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A caption as ids.

    Attributes:
        words (list of int): Its words, without `<S>` and `</S>`.
        log_prob (float): The sum of the log-probabilities of its words and, if it is finished, its `</S>`; nats.
        finished (bool): Whether it ends with `</S>`; otherwise it was cut at the greatest length.
    """
    words: list
    log_prob: float
    finished: bool

    @property
    def log_prob_per_token(self):
        """`log_prob` over the number of words plus `</S>`, nats."""
        return self.log_prob / max(1, len(self.words) + self.finished)


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """Finds the best captions of pictures::

        BeamSearch(width=5)(stepper, features)

    Attributes:
        width (int): Hypotheses kept for each picture; 1 is greedy search.
        top (int): Captions returned for each picture, at most `width`; by default 5, or the width if that is less.
        max_length (int): Words in a caption at most. A hypothesis of so many words is finished if `</S>` is its
            likeliest continuation, and cut if not.
        allow_unk (bool): Whether `<UNK>` may be said. If not, its probability goes to nobody.
        length_normalization (float): Hypotheses are compared by log_prob / (words + 1) ** length_normalization (Wu et
            al. 2016, in its plain form); 0 compares log-probabilities, 1 log-probabilities per token.

    Raises:
        InputError: One is impossible, or two contradict each other.
    """
    width: int = 20
    top: int | None = None
    max_length: int = 60
    allow_unk: bool = False
    length_normalization: float = 0.0

    def __post_init__(self):
        if self.width < 1:
            raise InputError(f'--beam-width {self.width}: must be at least 1')
        if self.top is None:
            object.__setattr__(self, 'top', min(5, self.width))
        if not 1 <= self.top <= self.width:
            raise InputError(f'--top {self.top}: must be at least 1 and at most the beam width, {self.width}')
        if self.max_length < 1:
            raise InputError(f'--max-length {self.max_length}: must be at least 1')
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
            list of list of Hypothesis: For each picture its captions, best first: `top`, or fewer where there are no
            more.
        """
        device = chainer.backend.get_device_from_array(features)
        room = _CPU_BYTES if device.xp is np else _GPU_SHARE * free_bytes(device)
        group = max(1, int(room) // (4 * self.width * len(stepper.bias)))
        found = []
        for start in range(0, len(features), group):
            found += _Beams(self, stepper, features[start:start + group]).run()
        return found


class _Beams:
    """The beams of a group of pictures.

    The beam of each picture is a row of `score`, `alive` and so on, best first. What is alive in all beams are the
    rows of the model's state, in the same order.
    """

    def __init__(self, search, stepper, features):
        self.search = search
        self.stepper = stepper
        self.banned = (BOS,) if search.allow_unk else (BOS, UNK)
        self.state = stepper.start(features)
        self.pictures = np.arange(len(features))        # of the beams still searched
        self.found = [None] * len(features)
        # One hypothesis a picture to begin with: nothing said.
        self.log_prob = np.zeros((len(features), 1))
        self.score = np.zeros((len(features), 1))
        self.alive = np.ones((len(features), 1), bool)
        # The words so far of each hypothesis; -1 after its end.
        self.words = np.zeros((len(features), 1, 0), np.int32)

    def run(self):
        parents = np.arange(len(self.pictures))
        read = np.full(len(self.pictures), BOS)
        for length in range(1, self.search.max_length + 2):
            self.state, scores = self.stepper.step(self.state, parents, read)
            if length > self.search.max_length:
                self._end_at_greatest_length(scores)
                break
            parents, read = self._advance(scores, length)
            if not len(self.pictures):
                break
        return self.found

    def _advance(self, scores, length):
        """Chooses the beams of `length` words and drops the pictures that are done; the rows to read next."""
        search = self.search
        weight = search.weight(length)
        # The finished compete with what the alive become; the worst place that they hold is the mark to beat. And
        # where scores only fall, what is not above the finished one that is last to be returned never will be.
        kept = np.where(self.alive, -np.inf, self.score)
        floor = np.full(len(kept), -np.inf)
        place = search.width if search.length_normalization else search.top
        if kept.shape[1] >= place:
            floor = np.sort(kept, axis=1)[:, -place]
        bounds = np.concatenate([[0], np.cumsum(self.alive.sum(axis=1))])
        new, new_parent, new_word = select(scores, self.stepper.bias, self.log_prob[self.alive], bounds, search.width,
                                           floor, weight, self.banned)
        merged = np.concatenate([kept, new], axis=1)
        order = np.argsort(-merged, axis=1, kind='stable')[:, :search.width]
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
        self.words = np.concatenate([self.words[rows, slot], np.where(word == EOS, -1, word)[..., None]], axis=2)
        self.log_prob = np.where(grown, score / weight, self.log_prob[rows, slot])
        self.score = score
        self.alive = there & grown & (word != EOS)
        return self._drop_done(parent_row, word)

    def _drop_done(self, parent_row, word):
        # The best that a hypothesis alive can still become: its own log-probability, over the greatest length.
        bound = np.where(self.alive, self.log_prob * self.search.weight(self.search.max_length + 1), -np.inf)
        finished = np.where(self.alive, -np.inf, self.score)
        place = min(self.search.top, self.score.shape[1])
        done = -np.sort(-finished, axis=1)[:, place - 1] >= bound.max(axis=1)
        if self.score.shape[1] < self.search.top:
            done &= ~self.alive.any(axis=1)
        for i in np.flatnonzero(done):
            self._keep(i)
        left = ~done
        self.pictures, self.words = self.pictures[left], self.words[left]
        self.log_prob, self.score, self.alive = self.log_prob[left], self.score[left], self.alive[left]
        return parent_row[left][self.alive], word[left][self.alive]

    def _end_at_greatest_length(self, scores):
        """Ends what is alive with `</S>` where that is its likeliest continuation, and cuts the rest."""
        bounds = np.arange(self.alive.sum() + 1)
        best, _, word = select(scores, self.stepper.bias, self.log_prob[self.alive], bounds, 1,
                               np.full(len(bounds) - 1, -np.inf), 1.0, self.banned)
        ends = word[:, 0] == EOS
        log_prob = np.where(ends, best[:, 0], self.log_prob[self.alive])
        cut = self.alive.copy()
        cut[self.alive] = ~ends
        self.log_prob[self.alive] = log_prob
        self.score[self.alive] = log_prob * self.search.weight(self.search.max_length + ends)
        for i in range(len(self.pictures)):
            self._keep(i, cut[i])

    def _keep(self, i, cut=None):
        order = np.argsort(-self.score[i], kind='stable')[:self.search.top]
        self.found[self.pictures[i]] = [
            Hypothesis([int(w) for w in self.words[i, k] if w >= 0], float(self.log_prob[i, k]),
                       bool(cut is None or not cut[k]))
            for k in order if self.score[i, k] > -np.inf]
