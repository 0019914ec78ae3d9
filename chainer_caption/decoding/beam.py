"""Beam search: the best captions of many images at once.

A hypothesis scores the sum of the log-probabilities of its words and of its `</S>`. Finished hypotheses keep their
place in the beam. The search of an image ends when its `top` best are finished and no unfinished one can pass them,
which is exact, because a score only falls as words are added."""
import dataclasses
from typing import Any

import numpy as np

from chainer_caption.data.vocabulary import BOS, EOS
from chainer_caption.decoding.search import Hypothesis, Search
from chainer_caption.functions import Array, beam_topk, count_inputs

# Below this, products of weights and log-probabilities would be rounded to zero.
_LEAST_WEIGHT = 1e-290


@dataclasses.dataclass(frozen=True)
class BeamSearch(Search):
    """Finds the best captions of images::

        BeamSearch(width=5)(model.decoder(), features)

    A hypothesis of the maximum length is finished if `</S>` is its likeliest continuation, and otherwise cut.

    Attributes (and those of `Search`):
        width: Number of hypotheses for each image; 1 is greedy search.
        top: Number of captions returned for each image, at most `width`; by default 5, or the width if that is less.
        length_normalization: Hypotheses are compared by log_prob / (words + 1) ** length_normalization (Wu et al. 2016,
            in its plain form); 0 compares log-probabilities, 1 log-probabilities per token.
    """
    lighter = 'lower --beam-width'

    width: int = 20
    top: int = None  # type: ignore[assignment]
    length_normalization: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require('width', self.width >= 1, 'must be at least 1', 'beam_width')
        if self.top is None:
            object.__setattr__(self, 'top', min(5, self.width))
        self._require('top', 1 <= self.top <= self.width,
                      f'must be at least 1 and at most the beam width, {self.width}')
        self._require('length_normalization', 0 <= self.length_normalization < float('inf'),
                      'must be a number and not negative')
        self._require('length_normalization', self.weight(self.max_length + 1) >= _LEAST_WEIGHT,
                      f'too large to compare captions of up to {self.max_length} words by; 0 to 2 are usual')

    def weight(self, tokens: Any) -> Any:
        """The factor by which log-probabilities of so many tokens, `</S>` included, become comparable."""
        return tokens ** -float(self.length_normalization)

    def __str__(self) -> str:
        return f'beam {self.width}' + (f', A {self.length_normalization:g}' if self.length_normalization else '')

    def __call__(self, decoder: Any, features: Any) -> list[list[Hypothesis]]:
        """Searches with a decoder (see `models.decoder`) and features as it takes them, (n, D) float32 on its device;
        returns the captions of each image, best first: `top`, or fewer where there are no more."""
        found = []
        for part in self.parts(decoder, features, self.width):
            state = decoder.start(part)
            beams = Beams(self, count_inputs(part))
            parents, tokens = beams.first()
            while len(parents):
                state, scores = decoder.step(state, parents, tokens)
                parents, tokens = beams.advance(scores, decoder.bias)
            found += beams.found
        return found


class Beams:
    """The beams of `count` images, during a search.

    The beam of an image is a row of the arrays here, best hypothesis first. A hypothesis is alive until it has its
    `</S>`. The rows of the decoder's state are the hypotheses alive, image by image, in the order of their beams.

    Attributes:
        found: For each image its hypotheses, best first, once it is done.
        images: The images that are not done, (n,) int.
        alive: Which places of their beams hold a hypothesis that goes on, (n, places) bool.
    """

    def __init__(self, search: BeamSearch, count: int) -> None:
        self.search = search
        self.images = np.arange(count)
        self.found: list[Any] = [None] * count
        # One hypothesis for each image to begin with, without words.
        self.alive = np.ones((count, 1), bool)
        self._log_prob, self._score = np.zeros((count, 1)), np.zeros((count, 1))
        # The words of each hypothesis, (n, places, length); -1 after its end.
        self._words = np.zeros((count, 1, 0), np.int32)

    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """As `advance`, before there are any scores."""
        return np.arange(len(self.images)), np.full(len(self.images), BOS)

    def advance(self, scores: Array, bias: Array, penalized: np.ndarray | None = None,
                penalty: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Adds a word to the hypotheses alive, and drops the images that are done.

        A beam of width 3 for one image; the words are `<S>`, `</S>`, `<UNK>`, `a`, `dog` (0 to 4). Of the first words,
        `a` (0.5), `dog` (0.2) and `</S>` (0.19) are the best; the third is a finished hypothesis without words:

        >>> beams, bias = Beams(BeamSearch(width=3), 1), np.zeros(5, np.float32)
        >>> parents, tokens = beams.first()                             # one row of state, which reads <S>
        >>> parents, tokens = beams.advance(np.log([[.01, .19, .1, .5, .2]], dtype=np.float32), bias)
        >>> parents.tolist(), tokens.tolist(), beams.alive.tolist()     # both continue row 0
        ([0, 0], [3, 4], [[True, True, False]])

        Now row 0 is "a" and row 1 is "dog". "a </S>" has 0.5 * 0.6 = 0.30, the finished one 0.19, "dog a" has
        0.2 * 0.6 = 0.12, "a dog" 0.5 * 0.2 = 0.10: it finds no place in the beam. One row is left, the child of row 1:

        >>> parents, tokens = beams.advance(np.log([[.01, .6, .09, .1, .2],
        ...                                         [.01, .2, .09, .6, .1]], dtype=np.float32), bias)
        >>> parents.tolist(), tokens.tolist(), beams.alive.tolist()
        ([1], [3], [[False, False, True]])

        Args:
            scores, bias: Of the words that may follow each hypothesis alive, without the biases, (m, V) float32; the
                biases, (V,) float32.
            penalized, penalty: For each of them words to be avoided, -1 for none, (m, b) int, and what is subtracted
                from the score of such a word, nats, as often as it is there. It affects this choice only.

        Returns:
            `(parents, tokens)` for the next step of the decoder: the row that each hypothesis alive continues, and the
            word that it reads; (n,) int each, empty when all images are done.
        """
        search, length = self.search, self._words.shape[2] + 1
        repeated = search.repeated(self._words[self.alive])
        penalties = repeated, np.full(repeated.shape, np.inf)
        if length > search.max_length:
            self._end_at_max_length(scores, bias, penalties)
            return np.zeros(0, int), np.zeros(0, int)
        if penalized is not None:
            penalties = (np.concatenate([repeated, penalized], axis=1),
                         np.concatenate([penalties[1], np.full(penalized.shape, penalty)], axis=1))
        # Finished hypotheses compete with the continuations, and the worst place that they hold is the threshold. Where
        # scores only fall, what does not pass the finished one at place `top` can never be returned.
        finished = np.where(self.alive, -np.inf, self._score)
        place = search.width if search.length_normalization else search.top
        threshold = np.sort(finished, axis=1)[:, -place] if finished.shape[1] >= place else \
            np.full(len(finished), -np.inf)
        row_bounds = np.concatenate([[0], np.cumsum(self.alive.sum(axis=1))])
        weight = search.weight(length)
        penalized_score, parent, word, score = beam_topk(
            scores, bias, self._log_prob[self.alive], row_bounds, search.width, threshold, weight,
            search.suppressed(length), penalties)
        # The candidates are the old beam, then the continuations; `chosen` are columns of them, best first.
        candidates = np.concatenate([finished, penalized_score], axis=1)
        chosen = np.argsort(-candidates, axis=1, kind='stable')[:, :search.width]
        if penalized is not None:
            # The choice is made; from here on a hypothesis has its own score.
            candidates = np.concatenate([finished, score], axis=1)
            own = np.take_along_axis(candidates, chosen, 1)
            chosen = np.take_along_axis(chosen, np.argsort(-own, axis=1, kind='stable'), 1)
        image, old_places = np.arange(len(candidates))[:, None], finished.shape[1]
        new_score = candidates[image, chosen]
        continued = chosen >= old_places
        continuation = np.where(continued, chosen - old_places, 0)
        parent, word = parent[image, continuation], np.where(continued, word[image, continuation], -1)
        # The place in the old beam whose words a hypothesis begins with: its parent's, or its own.
        old_place = np.where(continued, np.nonzero(self.alive)[1][parent], np.minimum(chosen, old_places - 1))
        self._words = np.concatenate([self._words[image, old_place], np.where(word == EOS, -1, word)[..., None]], 2)
        self._log_prob = np.where(continued, new_score / weight, self._log_prob[image, old_place])
        self._score = new_score
        self.alive = (new_score > -np.inf) & continued & (word != EOS)
        return self._drop_done(parent, word)

    def _drop_done(self, parent: np.ndarray, word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The best score that a hypothesis alive can still reach: its log-probability, at the maximum length.
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
        return parent[left][self.alive], word[left][self.alive]

    def _end_at_max_length(self, scores: Array, bias: Array, penalties: tuple[np.ndarray, np.ndarray]) -> None:
        """Ends what is alive with `</S>` where that is its likeliest continuation, and cuts the rest."""
        each = np.arange(self.alive.sum() + 1)
        best, _, word, _ = beam_topk(scores, bias, self._log_prob[self.alive], each, 1, np.full(len(each) - 1, -np.inf),
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

    def _keep(self, i: Any, cut: np.ndarray | None = None) -> None:
        order = np.argsort(-self._score[i], kind='stable')[:self.search.top]
        self.found[self.images[i]] = [
            Hypothesis([int(w) for w in self._words[i, k] if w >= 0], float(self._log_prob[i, k]),
                       bool(cut is None or not cut[k]))
            for k in order if self._score[i, k] > -np.inf]
