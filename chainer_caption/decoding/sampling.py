"""Sampling: captions drawn from the model's distribution, and not only its likeliest ones."""
import dataclasses
import hashlib
from typing import Any

import numpy as np
from chainer.backends import cuda

from chainer_caption.data.vocabulary import BOS, EOS
from chainer_caption.decoding.search import Hypothesis, Search
from chainer_caption.functions import sample_words, uniforms

_TRIES = 10                     # Captions that repeat others are sampled again, so many times the number wanted.
_PLACES = 2 ** 16               # Random numbers reserved for the words of a caption.
_LEAST_TEMPERATURE = 0.01       # Lower temperatures amplify float32's rounding.


@dataclasses.dataclass(frozen=True)
class Sampling(Search):
    """Samples captions of images, word by word::

        Sampling(top=5, top_p=0.9, seed=1)(model.decoder(), features)

    The samples depend only on the seed and the image's features, on the CPU and on a GPU (which may differ where two
    numbers are equal but for rounding), whatever else is in the batch. The captions of an image differ: one that
    repeats another is sampled again, `10 * top` captions in all at most. They are sorted by the model's own
    log-probability, whatever the temperature and the filters. One of the maximum length is finished if `</S>` is
    sampled next, and otherwise cut.

    Attributes (and those of `Search`):
        top: Maximum number of captions for each image.
        temperature: Scores are divided by it: below 1 likely words become likelier, above 1 less so.
        top_k: Words are sampled among so many, the likeliest; None for all.
        top_p: And among the likeliest whose probabilities sum to this (Holtzman et al. 2020), after the temperature and
            `top_k`; None for all.
    """
    lighter = 'lower --top'

    top: int = 5
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require('top', self.top >= 1, 'must be at least 1')
        self._require('temperature', _LEAST_TEMPERATURE <= self.temperature < float('inf'),
                      f'must be at least {_LEAST_TEMPERATURE}; a beam search of width 1 takes the likeliest words')
        self._require('top_k', self.top_k is None or self.top_k >= 1, 'must be at least 1')
        self._require('top_p', self.top_p is None or 0 < self.top_p <= 1, 'must be above 0 and at most 1')
        self._require('seed', self.seed >= 0, 'must not be negative')

    def __str__(self) -> str:
        filters = ''.join(f', {name} {value:g}' for name, value in (('k', self.top_k), ('p', self.top_p)) if value)
        return f'samples at T {self.temperature:g}{filters}'

    def __call__(self, decoder: Any, features: Any) -> list[list[Hypothesis]]:
        """Samples; arguments and result as for `BeamSearch`."""
        parts = self.parts(decoder, features, self.top)
        return [captions for part in parts for captions in self._sample_different(decoder, part)]

    def _sample_different(self, decoder: Any, features: Any) -> list[list[Hypothesis]]:
        start, keys = decoder.start(features), self._keys(features)
        found: list[dict[tuple[int, ...], Hypothesis]] = [{} for _ in keys]
        sampled = np.zeros(len(keys), int)
        while True:
            wanted = np.minimum([self.top - len(captions) for captions in found], _TRIES * self.top - sampled)
            if not wanted.any():
                return [sorted(captions.values(), key=lambda hypothesis: -hypothesis.log_prob) for captions in found]
            image = np.repeat(np.arange(len(keys)), wanted)
            number = np.arange(len(image)) + np.repeat(sampled - np.cumsum(wanted) + wanted, wanted)
            sampled += wanted
            for i, hypothesis in zip(image, self._sample(decoder, start, image, keys[image], number), strict=True):
                if hypothesis is not None:
                    found[i].setdefault(tuple(hypothesis.words), hypothesis)

    def _keys(self, features: Any) -> np.ndarray:
        """A key for each image, (n, 2) uint32, from its features and the seed."""
        arrays = [np.ascontiguousarray(cuda.to_cpu(array))
                  for array in (features if isinstance(features, tuple) else (features,))]
        digests = [hashlib.sha256(b'%d ' % self.seed + b''.join(row.tobytes() for row in rows)).digest()[:8]
                   for rows in zip(*arrays, strict=True)]
        return np.frombuffer(b''.join(digests), '<u4').astype(np.uint32).reshape(-1, 2)

    def _sample(self, decoder: Any, state: Any, image: np.ndarray, keys: np.ndarray,
                number: np.ndarray) -> list[Hypothesis | None]:
        """Samples captions: for each the row of its image in `state`, its key, and its number under this key. None
        where no word was possible."""
        found: list[Hypothesis | None] = [None] * len(image)
        rows, parents, tokens = np.arange(len(image)), image, np.full(len(image), BOS)
        words, log_prob = np.zeros((len(image), 0), np.int32), np.zeros(len(image))
        for length in range(1, self.max_length + 2):
            state, scores = decoder.step(state, parents, tokens)
            sampled, added, _ = sample_words(
                scores, decoder.bias, uniforms(keys[rows], number[rows] * _PLACES + length), self.suppressed(length),
                self.repeated(words), self.temperature, self.top_k, self.top_p)
            if not isinstance(sampled, np.ndarray):     # one copy from the GPU
                sampled, added = cuda.cupy.concatenate([sampled.astype(np.float64)[None], added[None]]).get()
                sampled = sampled.astype(np.int64)
            ends = sampled == EOS
            for i in np.flatnonzero(ends):
                found[rows[i]] = Hypothesis(words[i].tolist(), float(log_prob[i] + added[i]), True)
            if length > self.max_length:
                for i in np.flatnonzero(~ends):
                    found[rows[i]] = Hypothesis(words[i].tolist(), float(log_prob[i]), False)
            parents = np.flatnonzero(~ends & (sampled >= 0))
            if not len(parents):
                break
            rows, tokens, log_prob = rows[parents], sampled[parents], (log_prob + added)[parents]
            words = np.concatenate([words[parents], tokens[:, None].astype(np.int32)], axis=1)
        return found
