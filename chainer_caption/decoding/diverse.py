"""Diverse beam search: captions that differ, because groups of hypotheses avoid each other's words."""
import dataclasses
from typing import Any

import numpy as np

from chainer_caption.decoding.beam import Beams, BeamSearch
from chainer_caption.decoding.search import Hypothesis
from chainer_caption.functions import Array, count_inputs


@dataclasses.dataclass(frozen=True)
class DiverseBeamSearch(BeamSearch):
    """The search of Vijayakumar et al., "Diverse beam search" (2016), with Hamming diversity::

        DiverseBeamSearch(width=20, beam_groups=5, diversity_penalty=0.5)(model.decoder(), features)

    The beam is divided into groups of `width / beam_groups` hypotheses, and at each length the groups choose one after
    the other. In group g, a continuation by the word w, as the t-th word, loses `diversity_penalty` times the number of
    hypotheses alive in the groups before g whose t-th word is w. `</S>` is no word. The penalty affects the choice at
    this length only: log-probabilities are the model's own, by which a hypothesis competes within its group afterwards.
    (`length_normalization` multiplies both.) A group is searched until nothing is alive in it.

    The result is `top` different captions: the best of each group, then the second best of each, and so on; among those
    of the same rank the best.

    Attributes (and those of `BeamSearch`, where `width` is that of all groups together):
        beam_groups: Number of groups, a divisor of the width. A single group is a beam search.
        diversity_penalty: See above; nats. 0.2 to 0.8 are usual.
    """
    beam_groups: int = 5
    diversity_penalty: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require('beam_groups', self.beam_groups >= 1 and self.width % self.beam_groups == 0,
                      f'must divide the beam width, {self.width}')
        self._require('diversity_penalty', 0 <= self.diversity_penalty < float('inf'),
                      'must be a number and not negative')

    def __str__(self) -> str:
        return f'{super().__str__()} in {self.beam_groups} groups, D {self.diversity_penalty:g}'

    def __call__(self, decoder: Any, features: Any) -> list[list[Hypothesis]]:
        """Searches, as `BeamSearch` does."""
        found = []
        for part in self.parts(decoder, features, self.width):
            groups = self._search(decoder, part, count_inputs(part))
            found += [self._chosen(of_image) for of_image in zip(*groups, strict=True)]
        return found

    def _search(self, decoder: Any, features: Any, count: int) -> list[list[list[Hypothesis]]]:
        """For each group its hypotheses of each image, best first."""
        size = self.width // self.beam_groups
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(BeamSearch)}
        search = BeamSearch(**{**shared, 'width': size, 'top': size})
        groups = [Beams(search, count) for _ in range(self.beam_groups)]
        state = decoder.start(features)
        steps = [beams.first() for beams in groups]
        while any(len(parents) for parents, _ in steps):
            parents, tokens = (np.concatenate(parts) for parts in zip(*steps, strict=True))
            state, scores = decoder.step(state, parents, tokens)
            # The rows of the scores are those of the first group, then those of the second, and so on.
            bounds = np.cumsum([0, *(len(parents) for parents, _ in steps)])
            chosen = np.full((count, self.width), -1)   # the words of this length, group by group; -1 for none
            steps = [self._advance(beams, scores[bounds[g]:bounds[g + 1]], decoder.bias, bounds[g], chosen, g * size)
                     for g, beams in enumerate(groups)]
        return [beams.found for beams in groups]

    def _advance(self, beams: Beams, scores: Array, bias: Array, first_row: int, chosen: np.ndarray,
                 place: int) -> tuple[np.ndarray, np.ndarray]:
        """Advances the beams of the group whose words are `chosen[:, place:]`, given those of the groups before."""
        if not len(scores):
            return np.zeros(0, int), np.zeros(0, int)
        image = np.repeat(beams.images, beams.alive.sum(axis=1))
        parents, words = beams.advance(scores, bias, chosen[image, :place], self.diversity_penalty)
        own = np.full(beams.alive.shape, -1)
        own[beams.alive] = words
        chosen[beams.images, place:place + own.shape[1]] = own
        return first_row + parents, words

    def _chosen(self, groups: tuple[list[Hypothesis], ...]) -> list[Hypothesis]:
        ranked = [(rank, -hypothesis.log_prob * self.weight(len(hypothesis.words) + hypothesis.finished), hypothesis)
                  for hypotheses in groups for rank, hypothesis in enumerate(hypotheses)]
        different: dict[tuple[int, ...], tuple[float, Hypothesis]] = {}
        for _, loss, hypothesis in sorted(ranked, key=lambda entry: entry[:2]):
            different.setdefault(tuple(hypothesis.words), (loss, hypothesis))
        best = sorted([*different.values()][:self.top], key=lambda entry: entry[0])
        return [hypothesis for _, hypothesis in best]
