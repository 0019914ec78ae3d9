"""Diverse beam search: captions that differ, because groups of hypotheses avoid each other's words."""
import dataclasses

import numpy as np

from chainer_caption.decoding.beam import Beams, BeamSearch
from chainer_caption.errors import InputError


@dataclasses.dataclass(frozen=True)
class DiverseBeamSearch(BeamSearch):
    """The search of Vijayakumar et al., "Diverse beam search" (2016), with Hamming diversity::

        DiverseBeamSearch(width=20, beam_groups=5, diversity_penalty=0.5)(stepper, features)

    The beam is cut into groups of `width / groups` hypotheses, and at each length the groups choose one after the
    other. To group g a hypothesis that becomes longer by the word w, its t-th, is worth its log-probability less
    `diversity` * (how many hypotheses alive in the groups before g have w as their t-th word). `</S>` is no word. What
    a word has lost counts in the choice of that length alone: log-probabilities stay the model's own, and by them a
    hypothesis competes with those of its group from then on. (`length_normalization` multiplies both.) A group is
    searched until nothing is alive in it. On a GPU a step waits once for each group.

    What is returned are `top` captions that differ: the best of each group, then the second best of each, and so on;
    of those of the same rank the best.

    Attributes:
        width, top, length_normalization, …: Those of `BeamSearch`; `width` is that of all groups together.
        groups (int): How many there are; they divide the width. A single one is a beam search.
        diversity (float): See above; nats. 0.2 to 0.8 are usual.

    Raises:
        InputError: One is impossible, or two contradict each other.
    """
    beam_groups: int = 5
    diversity_penalty: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.beam_groups < 1 or self.width % self.beam_groups:
            raise InputError(f'--beam-groups {self.beam_groups}: must divide the beam width, {self.width} '
                             f'(--beam-width)')
        if not 0 <= self.diversity_penalty < float('inf'):
            raise InputError(f'--diversity-penalty {self.diversity_penalty}: must be a number and not negative')

    def __str__(self):
        return f'{super().__str__()} in {self.beam_groups} groups, D {self.diversity_penalty:g}'

    def __call__(self, stepper, features):
        """Searches, as `BeamSearch` does."""
        found = []
        for part in self.parts(stepper, features, self.width):
            count = len(part[0]) if isinstance(part, tuple) else len(part)
            groups = self._search(stepper, part, count)
            found += [self._chosen(of_image) for of_image in zip(*groups, strict=True)]
        return found

    def _search(self, stepper, features, count):
        """For each group its hypotheses of each image, best first."""
        size = self.width // self.beam_groups
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(BeamSearch)}
        search = BeamSearch(**{**shared, 'width': size, 'top': size})
        groups = [Beams(search, count) for _ in range(self.beam_groups)]
        state = stepper.start(features)
        steps = [beams.first() for beams in groups]
        while any(len(parents) for parents, _ in steps):
            parents, read = (np.concatenate(parts) for parts in zip(*steps, strict=True))
            state, scores = stepper.step(state, parents, read)
            # The rows of the scores are those of the first group, then those of the second, and so on.
            bounds = np.cumsum([0, *(len(parents) for parents, _ in steps)])
            said = np.full((count, self.width), -1)
            steps = [self._advance(beams, scores, stepper.bias, said, bounds[g:g + 2], slice(g * size, (g + 1) * size))
                     for g, beams in enumerate(groups)]
        return [beams.found for beams in groups]

    def _advance(self, beams, scores, bias, said, rows, own):
        """Makes the beams of a group a word longer, in view of what the groups before it have said, (images, width),
        and adds what it says; the rows to read next."""
        start, stop = rows
        if start == stop:
            return np.zeros((2, 0), int)
        of = np.repeat(beams.images, beams.alive.sum(axis=1))
        parents, words = beams.advance(scores[start:stop], bias, said[of, :own.start], self.diversity_penalty)
        mine = np.full(beams.alive.shape, -1)
        mine[beams.alive] = words
        said[beams.images, own] = mine
        return start + parents, words

    def _chosen(self, groups):
        ranked = [(rank, -hypothesis.log_prob * self.weight(len(hypothesis.words) + hypothesis.finished), hypothesis)
                  for hypotheses in groups for rank, hypothesis in enumerate(hypotheses)]
        chosen = {}
        for _, loss, hypothesis in sorted(ranked, key=lambda entry: entry[:2]):
            chosen.setdefault(tuple(hypothesis.words), (loss, hypothesis))
        best = sorted([*chosen.values()][:self.top], key=lambda entry: entry[0])
        return [hypothesis for _, hypothesis in best]
