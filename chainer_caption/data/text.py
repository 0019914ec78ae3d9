"""Text without images: captions, one a line, from which a model learns the language before it learns from images."""
import array
import collections
import dataclasses
import gzip
import hashlib
import zlib
from typing import Any

import numpy as np

from chainer_caption.data.batches import CaptionDataset
from chainer_caption.data.tokenization import tokenize
from chainer_caption.data.vocabulary import UNK, Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.storage.files import Path, open_regular, unreadable

# Bytes of a text and of a line of it at most, decompressed: a damaged or hostile archive does not fill the memory.
_LARGEST, _LINE = 2 ** 31, 2 ** 16


@dataclasses.dataclass
class Text:
    """The captions of a text file, as tokens; lines without a token are left out."""
    path: Path
    words: list[str]            #: every distinct token
    tokens: np.ndarray          #: indices into `words`, int32
    bounds: np.ndarray          #: caption i has tokens[bounds[i]:bounds[i + 1]], (captions + 1,) int64
    digest: str                 #: SHA-256 of the text, decompressed

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def word_counts(self) -> dict[str, int]:
        """How often each word occurs."""
        return dict(zip(self.words, np.bincount(self.tokens, minlength=len(self.words)).tolist(), strict=True))

    def examples(self, vocabulary: Vocabulary) -> CaptionDataset:
        """The captions in the ids of a vocabulary; all of the feature row 0."""
        return CaptionDataset(np.zeros(len(self), np.int64), vocabulary.encode(self.words)[self.tokens], self.bounds)

    def unknown_share(self, vocabulary: Vocabulary) -> float:
        """The share of the tokens that a vocabulary does not have, from 0 to 1."""
        return float((vocabulary.encode(self.words)[self.tokens] == UNK).mean())


def read_text(path: Path, tokenizer: str) -> Text:
    """Reads captions from a file in UTF-8, plain or compressed by gzip, as people wrote them: they are split by a
    tokenizer, one of `captions.TOKENIZERS`. Raises InputError where the file is missing, damaged or has no caption."""
    words: Any = collections.defaultdict()
    words.default_factory = words.__len__               # numbers its keys in the order of their first look-up
    tokens, lengths, digest = array.array('i'), array.array('q'), hashlib.sha256()
    try:
        with open_regular(path) as f:
            compressed = f.read(2) == b'\x1f\x8b'
            f.seek(0)
            lines: Any = gzip.GzipFile(fileobj=f) if compressed else f
            number = size = 0
            while line := lines.readline(_LINE + 1):
                number, size = number + 1, size + len(line)
                if len(line) > _LINE or size > _LARGEST:
                    raise InputError(f'{path}: line {number} ends after more than {_LINE:,} bytes of its own or '
                                     f'{_LARGEST:,} of the file; a text has one caption a line')
                digest.update(line)
                found = tokenize(line.decode().removeprefix('\ufeff'), tokenizer)
                if found:
                    tokens.extend(map(words.__getitem__, found))
                    lengths.append(len(found))
    except UnicodeError as e:
        raise InputError(f'{path}: line {number} is not UTF-8; save the captions as UTF-8') from e
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise InputError(f'{path}: damaged ({e}); make the archive again') from e
    except OSError as e:
        raise unreadable(path, e) from e
    if not lengths:
        raise InputError(f'{path}: no caption in it; a text has one caption a line')
    return Text(path, list(words), np.frombuffer(tokens, np.int32), np.cumsum([0, *lengths], dtype=np.int64),
                digest.hexdigest())
