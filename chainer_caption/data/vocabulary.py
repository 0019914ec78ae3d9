"""Words and their ids: what a captioner can say."""
import numpy as np

from chainer_caption.errors import InputError

BOS, EOS, UNK = 0, 1, 2
SPECIAL = ('<S>', '</S>', '<UNK>')


class Vocabulary:
    """The words of a model, in the order of their ids: `<S>`, `</S>`, `<UNK>`, then in code-point order.

    Args:
        words (list of str): All words, the three special ones first.
        counts (list of int): How often each was seen in the training captions. `<S>` and `</S>` count captions,
            `<UNK>` counts the words left out.
    """

    def __init__(self, words, counts):
        if tuple(words[:3]) != SPECIAL or len(counts) != len(words) or len(set(words)) != len(words):
            raise InputError(f'a vocabulary begins with {", ".join(SPECIAL)}, repeats no word and counts each')
        self.words = list(words)
        self.counts = [int(count) for count in counts]
        self._ids = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def from_counts(cls, counts, captions, min_count=5):
        """The words seen `min_count` times or more.

        Args:
            counts (dict): How often each word was seen in the training captions.
            captions (int): The number of those captions.
            min_count (int): The least count; seen just as often is in.
        """
        # A caption that spells out "<UNK>" means the word that it could not name, and "<S>" is nothing to say.
        kept = sorted(word for word, count in counts.items() if count >= min_count and word not in SPECIAL)
        left_out = sum(counts.values()) - sum(counts[word] for word in kept)
        return cls([*SPECIAL, *kept], [captions, captions, left_out, *(counts[word] for word in kept)])

    def __len__(self):
        return len(self.words)

    def encode(self, tokens):
        """The ids of the tokens, int32; UNK for words that are not here."""
        return np.array([self._id(token) for token in tokens], np.int32)

    def _id(self, token):
        i = self._ids.get(token, UNK)
        return i if i > UNK else UNK

    def decode(self, ids):
        """The words of the ids, as a list."""
        return [self.words[i] for i in ids]

    def log_frequencies(self):
        """The log-probability of each word as the next one, whatever came before: float32, (len(self),).

        Each word counts once more than it was seen, so that all are finite. `<S>`, which is never next, is as rare as
        a word never seen.
        """
        counts = np.array([0, *self.counts[1:]], np.float64) + 1
        return np.log(counts / counts.sum()).astype(np.float32)

    def to_json(self):
        return {'words': self.words, 'counts': self.counts}

    @classmethod
    def from_json(cls, value, path):
        """The opposite of `to_json`; `path` is named in the InputError for a value that cannot be one."""
        words, counts = (value.get(key) if isinstance(value, dict) else None for key in ('words', 'counts'))
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)
                and isinstance(counts, list)
                and all(isinstance(count, int) and 0 <= count < 2 ** 53 for count in counts)):
            raise InputError(f'{path}: not a vocabulary (lists "words" and "counts")')
        try:
            return cls(words, counts)
        except InputError as e:
            raise InputError(f'{path}: {e}') from e
