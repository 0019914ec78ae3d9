"""Words and their ids."""
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chainer_caption.errors import InputError

BOS, EOS, UNK = 0, 1, 2
SPECIAL = ('<S>', '</S>', '<UNK>')


class Vocabulary:
    """The words of a model, in the order of their ids: `<S>`, `</S>`, `<UNK>`, then the others in code-point order;
    words that were added later (`extended`) come last.

    `counts` is how often each occurs in the captions that the model learns from; `<S>` and `</S>` count captions,
    `<UNK>` counts the words left out."""

    def __init__(self, words: Sequence[str], counts: Sequence[int]) -> None:
        if tuple(words[:3]) != SPECIAL or len(counts) != len(words) or len(set(words)) != len(words):
            raise InputError(f'a vocabulary begins with {", ".join(SPECIAL)}, repeats no word and counts each')
        self.words, self.counts = list(words), [int(count) for count in counts]
        self._ids = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], captions: int, min_count: int = 5,
                    text: Mapping[str, int] | None = None, text_min_count: int | None = None) -> 'Vocabulary':
        """The words that occur `min_count` times or more, by how often each occurs in the training captions (`counts`)
        and the number of those captions.

        `text` has the counts of a text without images, whose captions are among the `captions`, too. They add to those
        of the training captions' words. Other words are kept if they occur `text_min_count` times, None for never:
        nothing shows the model what they look like."""
        text = text or {}
        total = {word: counts.get(word, 0) + text.get(word, 0) for word in {**counts, **text}}
        # "<S>" and "</S>" in a caption's text are no marks, and "<UNK>" is no word.
        kept = sorted(word for word, count in total.items() if word not in SPECIAL and (
            (word in counts and count >= min_count) or (text_min_count or math.inf) <= text.get(word, 0)))
        left_out = sum(total.values()) - sum(total[word] for word in kept)
        return cls([*SPECIAL, *kept], [captions, captions, left_out, *(total[word] for word in kept)])

    def extended(self, counts: Mapping[str, int], captions: int, min_count: int = 2,
                 text: Mapping[str, int] | None = None, text_min_count: int | None = None) -> 'Vocabulary':
        """This vocabulary with the words of more captions behind its own, whose ids stay; arguments as for
        `from_counts`. Counts are those of all captions together."""
        more, text = Vocabulary.from_counts(counts, captions, min_count, text, text_min_count), text or {}
        words = [*self.words, *(word for word in more.words if word not in self._ids)]
        found = [0 if word in SPECIAL else counts.get(word, 0) + text.get(word, 0) for word in words]
        found[:3] = captions, captions, sum(counts.values()) + sum(text.values()) - sum(found)
        return Vocabulary(words, [one + other for one, other in zip(
            [*self.counts, *[0] * (len(words) - len(self))], found, strict=True)])

    @property
    def unknown_share(self) -> float:
        """The share of the words in the training captions that are `<UNK>`, from 0 to 1 (1 where there are none)."""
        words = sum(self.counts[UNK:])
        return self.counts[UNK] / words if words else 1.0

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """The ids of tokens, int32; UNK for words that are not in the vocabulary, and for special ones."""
        return np.array([max(self._ids.get(token, UNK), UNK) for token in tokens], np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of ids."""
        return [self.words[i] for i in ids]

    def log_frequencies(self) -> np.ndarray:
        """The log-probability of each word as the next one, independent of the words before: float32, (V,). Each word
        counts once more than it occurs, so that all are finite; so does `<S>`, which is never next."""
        counts = np.array([0, *self.counts[1:]], np.float64) + 1
        return np.log(counts / counts.sum()).astype(np.float32)

    def to_json(self) -> dict[str, list]:
        return {'words': self.words, 'counts': self.counts}

    @classmethod
    def from_json(cls, value: Any, path: Any) -> 'Vocabulary':
        """The inverse of `to_json`; raises InputError with the file at `path` if the value is no vocabulary."""
        words, counts = (value.get(key) if isinstance(value, dict) else None for key in ('words', 'counts'))
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words) and isinstance(counts, list)
                and all(isinstance(count, int) and 0 <= count < 2 ** 53 for count in counts)):
            raise InputError(f'{path}: not a vocabulary (lists "words" and "counts")')
        try:
            return cls(words, counts)
        except InputError as e:
            raise InputError(f'{path}: {e}') from e


def unknown_share(counts: Mapping[str, int], min_count: int) -> float:
    """The `Vocabulary.unknown_share` of the vocabulary that `Vocabulary.from_counts` makes with this `min_count`."""
    return Vocabulary.from_counts(counts, 0, min_count).unknown_share
