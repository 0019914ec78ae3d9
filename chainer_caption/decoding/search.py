"""What all searches share: what a caption may say, and what they give back."""
import dataclasses

import chainer
import numpy as np

from chainer_caption.data.vocabulary import BOS, EOS, UNK
from chainer_caption.errors import InputError
from chainer_caption.functions.memory import free_bytes

# What the scores of one step may take: bytes on the CPU, a few times its cache; on a GPU a share of what is free there,
# since those of two steps, states and gates are there at once. It bounds how many images are searched together.
_CPU_BYTES = 24 * 2 ** 20
_GPU_SHARE = 1 / 8


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What a caption may say. What it may not say leaves its probability to nobody.

    Attributes:
        max_length (int): Words in a caption at most.
        min_length (int): Words in a caption at least: `</S>` is not said before.
        no_repeat_ngram (int): No so many words in a row are said twice in a caption; 0 allows it.
        allow_unk (bool): Whether `<UNK>` may be said.

    Raises:
        InputError: One is impossible, or two contradict each other.
    """
    #: What to do where it takes too much memory.
    lighter = None

    max_length: int = 60
    min_length: int = 0
    no_repeat_ngram: int = 0
    allow_unk: bool = False

    def __post_init__(self):
        if self.max_length < 1:
            raise InputError(f'--max-length {self.max_length}: must be at least 1')
        if not 0 <= self.min_length <= self.max_length:
            raise InputError(f'--min-length {self.min_length}: must not be negative, nor above the greatest length, '
                             f'{self.max_length}')
        if self.no_repeat_ngram < 0:
            raise InputError(f'--no-repeat-ngram {self.no_repeat_ngram}: must not be negative; 0 allows repetition')

    def suppressed(self, length):
        """The ids that are never said as the `length`-th of a caption, a tuple."""
        unknown = () if self.allow_unk else (UNK,)
        ends = (EOS,) if length <= self.min_length else ()
        return BOS, *ends, *unknown

    def repeated(self, words):
        """The words that would end an n-gram which a caption has already.

        Args:
            words (numpy.ndarray): Captions of the same length, (m, L) int.

        Returns:
            numpy.ndarray: For each caption such words, and -1, which is none: (m, b) int.
        """
        n, length = self.no_repeat_ngram, words.shape[1]
        if n == 0 or length < n:
            return words[:, :0]
        begun = words[:, length - n + 1:]
        places = np.lib.stride_tricks.sliding_window_view(words, n, axis=1)
        return np.where((places[..., :-1] == begun[:, None]).all(axis=2), places[..., -1], -1)

    @staticmethod
    def parts(stepper, features, hypotheses):
        """The features, in parts that can be searched together with so many hypotheses for each image."""
        arrays = features if isinstance(features, tuple) else (features,)
        device = chainer.backend.get_device_from_array(arrays[0])
        room = _CPU_BYTES if device.xp is np else _GPU_SHARE * free_bytes(device)
        size = max(1, int(room) // (4 * hypotheses * len(stepper.bias)))
        for start in range(0, len(arrays[0]), size):
            part = tuple(array[start:start + size] for array in arrays)
            yield part if isinstance(features, tuple) else part[0]
