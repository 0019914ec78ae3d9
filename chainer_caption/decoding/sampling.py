"""Sampling: captions drawn from the model, which are like what it learned from and not only what is likeliest."""
import dataclasses
import hashlib

import numpy as np
from chainer.backends import cuda

from chainer_caption.data.vocabulary import BOS, EOS
from chainer_caption.decoding.search import Hypothesis, Search
from chainer_caption.errors import InputError
from chainer_caption.functions.sampling_words import sample_words, uniforms

# So many times as many captions as are wanted are drawn at most, where they repeat each other.
_TRIES = 10

# Numbers that are kept for the words of a caption.
_PLACES = 2 ** 16

# Less would be float32's rounding and not the model.
_LEAST_TEMPERATURE = 0.01


@dataclasses.dataclass(frozen=True)
class Sampling(Search):
    """Draws captions of images, word by word::

        Sampling(top=5, top_p=0.9, seed=1)(stepper, features)

    What is drawn follows from the seed and the image's features alone, on the CPU and on a GPU (where two numbers are
    equal but for rounding, either may win), whatever is drawn beside it. The captions of an image differ: one that
    repeats another is drawn again, `10 * top` captions in all at most. Best first are they by the model's own
    log-probability, whatever the temperature and whatever was drawn among.

    Attributes:
        top (int): Captions for each image; fewer where no more were drawn that differ.
        temperature (float): Scores are divided by it: below 1 likely words become likelier, above 1 less so.
        top_k (int or None): Words are drawn among so many, the likeliest; None for all.
        top_p (float or None): And among the likeliest that have together this probability (Holtzman et al. 2020), after
            the temperature and `top_k`; None for all.
        seed (int): What is drawn follows from it.
        max_length, min_length, no_repeat_ngram, allow_unk: See `Search`. A caption of the greatest length is finished
            if `</S>` is drawn next, and cut if not.

    Raises:
        InputError: One is impossible, or two contradict each other.
    """
    lighter = 'lower --top'

    top: int = 5
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.top < 1:
            raise InputError(f'--top {self.top}: must be at least 1')
        if not _LEAST_TEMPERATURE <= self.temperature < float('inf'):
            raise InputError(f'--temperature {self.temperature}: must be at least {_LEAST_TEMPERATURE}; --beam-width 1 '
                             'says the likeliest word each time')
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f'--top-k {self.top_k}: must be at least 1')
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f'--top-p {self.top_p}: must be above 0 and at most 1')
        if self.seed < 0:
            raise InputError(f'--seed {self.seed}: must not be negative')

    def __str__(self):
        among = ''.join(f', {name} {value:g}' for name, value in (('k', self.top_k), ('p', self.top_p)) if value)
        return f'samples at T {self.temperature:g}{among}'

    def __call__(self, stepper, features):
        """Draws.

        Args:
            stepper (Stepper): The model.
            features (array): (n, D) float32 on the model's device.

        Returns:
            list of list of Hypothesis: For each image its captions, best first.
        """
        found = []
        for part in self.parts(stepper, features, self.top):
            found += self._draw_different(stepper, part)
        return found

    def _draw_different(self, stepper, features):
        start, keys = stepper.start(features), self._keys(features)
        found, drawn = [{} for _ in keys], np.zeros(len(keys), int)
        while True:
            wanted = np.minimum([self.top - len(captions) for captions in found], _TRIES * self.top - drawn)
            if not wanted.any():
                return [sorted(captions.values(), key=lambda hypothesis: -hypothesis.log_prob) for captions in found]
            image = np.repeat(np.arange(len(keys)), wanted)
            number = np.arange(len(image)) + np.repeat(drawn - np.cumsum(wanted) + wanted, wanted)
            drawn += wanted
            for of, hypothesis in zip(image, self._draw(stepper, start, image, keys[image], number), strict=True):
                if hypothesis is not None:
                    found[of].setdefault(tuple(hypothesis.words), hypothesis)

    def _keys(self, features):
        """A key for each image, (n, 2) uint32: another for other features, and for another seed."""
        arrays = [np.ascontiguousarray(cuda.to_cpu(array))
                  for array in (features if isinstance(features, tuple) else (features,))]
        digests = [hashlib.sha256(b'%d ' % self.seed + b''.join(row.tobytes() for row in rows)).digest()[:8]
                   for rows in zip(*arrays, strict=True)]
        return np.frombuffer(b''.join(digests), '<u4').astype(np.uint32).reshape(-1, 2)

    def _draw(self, stepper, state, image, keys, number):
        """Draws captions: for each the row of its image in `state`, its key, and which under this key it is; a list
        of Hypothesis, with None where nothing was left to say."""
        found = [None] * len(image)
        rows, parents, read = np.arange(len(image)), image, np.full(len(image), BOS)
        words, log_prob = np.zeros((len(image), 0), np.int32), np.zeros(len(image))
        for length in range(1, self.max_length + 2):
            state, scores = stepper.step(state, parents, read)
            drawn, added = sample_words(scores, stepper.bias, uniforms(keys[rows], number[rows] * _PLACES + length),
                                  self.suppressed(length), self.repeated(words), self.temperature, self.top_k,
                                        self.top_p)
            ends = drawn == EOS
            for i in np.flatnonzero(ends):
                found[rows[i]] = Hypothesis(words[i].tolist(), float(log_prob[i] + added[i]), True)
            if length > self.max_length:
                for i in np.flatnonzero(~ends):
                    found[rows[i]] = Hypothesis(words[i].tolist(), float(log_prob[i]), False)
            parents = np.flatnonzero(~ends & (drawn >= 0))
            if not len(parents):
                break
            rows, read, log_prob = rows[parents], drawn[parents], (log_prob + added)[parents]
            words = np.concatenate([words[parents], read[:, None].astype(np.int32)], axis=1)
        return found
