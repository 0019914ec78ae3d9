"""What all searches share: the constraints on captions, and their result."""
import dataclasses
from collections.abc import Iterator
from typing import Any

import chainer
import numpy as np

from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.errors import InputError
from chainer_caption.functions import free_bytes

# What the scores of one step may take: bytes on the CPU, a few times its cache; on a GPU a share of the free memory,
# since those of two steps, states and gates exist at the same time. It limits how many images are searched together.
_CPU_BYTES = 24 * 2 ** 20
_GPU_SHARE = 1 / 8


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A caption as word ids."""
    words: list[int]    #: without `<S>` and `</S>`
    log_prob: float     #: the sum of the log-probabilities of its words and, if it is finished, its `</S>`; nats
    finished: bool      #: whether it ends with `</S>`; otherwise it was cut at the maximum length

    @property
    def log_prob_per_token(self) -> float:
        """`log_prob` over the number of words plus `</S>`, nats."""
        return self.log_prob / max(1, len(self.words) + self.finished)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """The constraints on captions. The probability of what they exclude is not redistributed. A search raises
    InputError where a value is impossible, or two contradict each other."""
    lighter = ''                #: What to do when it takes too much memory.
    max_length: int = 60        #: Maximum number of words in a caption.
    min_length: int = 0         #: Minimum number of words in a caption.
    no_repeat_ngram: int = 0    #: No sequence of this many words occurs twice in a caption; 0 allows it.
    allow_unk: bool = False     #: Whether `<UNK>` may be in a caption.

    def __post_init__(self) -> None:
        self._require('max_length', self.max_length >= 1, 'must be at least 1')
        self._require('min_length', 0 <= self.min_length <= self.max_length,
                      f'must not be negative or above the maximum length, {self.max_length}')
        self._require('no_repeat_ngram', self.no_repeat_ngram >= 0, 'must not be negative; 0 allows repetition')

    def _require(self, name: str, holds: bool, message: str, field: str | None = None) -> None:
        if not holds:
            raise InputError.of(field or name, getattr(self, name), message)

    def suppressed(self, length: int) -> tuple[int, ...]:
        """The ids that cannot be the `length`-th token of a caption."""
        return BOS, *([EOS] if length <= self.min_length else []), *([] if self.allow_unk else [UNK])

    def repeated(self, words: np.ndarray) -> np.ndarray:
        """The words that would complete an n-gram which a caption contains already: (m, b) int, where -1 is none, of
        captions of the same length, (m, L) int."""
        n, length = self.no_repeat_ngram, words.shape[1]
        if n == 0 or length < n:
            return words[:, :0]
        begun = words[:, length - n + 1:]
        places = np.lib.stride_tricks.sliding_window_view(words, n, axis=1)
        return np.where((places[..., :-1] == begun[:, None]).all(axis=2), places[..., -1], -1)

    @staticmethod
    def parts(decoder: Any, features: Any, hypotheses: int) -> Iterator[Any]:
        """The features, in parts that can be searched together with so many hypotheses for each image."""
        arrays = features if isinstance(features, tuple) else (features,)
        device = chainer.backend.get_device_from_array(arrays[0])
        room = _CPU_BYTES if device.xp is np else _GPU_SHARE * free_bytes(device)
        size = max(1, int(room) // (4 * hypotheses * len(decoder.bias)))
        for start in range(0, len(arrays[0]), size):
            part = tuple(array[start:start + size] for array in arrays)
            yield part if isinstance(features, tuple) else part[0]
