"""The reward of self-critical training: CIDEr-D against the training captions of a dataset, prepared once."""
import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainer_caption.data.vocabulary import EOS, SPECIAL
from chainer_caption.errors import InputError
from chainer_caption.evaluation.metrics.cider import CiderReward, CiderTables
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.cache import entry_folder, prepare_entry
from chainer_caption.storage.files import write_npz

_VERSION = 2                                            # of the layout of the arrays in the cache


def training_reward(dataset: Any, words: Sequence[str]) -> CiderReward:
    """CIDEr-D, of captions in the ids of a vocabulary's words, against the training captions, each of which ends with
    `</S>`. Image i of the reward is the i-th of the dataset's training images that have captions.
    The prepared references are kept in the cache (see `storage.cache`), under a digest of the captions."""
    captions, end = dataset.captions, SPECIAL[EOS]
    rows, tokens, bounds = dataset.sentences(*dataset.training_splits)
    place = captions.words.index(end) if end in captions.words else len(captions.words)
    tokens = np.insert(tokens, bounds[1:], place)
    # Words are numbered in the order in which they occur first.
    used, first = np.unique(tokens, return_index=True)
    number = np.zeros(len(captions.words) + 1, np.int32)
    number[used[np.argsort(first)]] = np.arange(len(used))
    numbers = {(end if i == place else captions.words[i]): int(number[i]) for i in used}
    images = np.append(np.flatnonzero(np.diff(rows, prepend=-1)), len(rows))
    tokens = number[tokens]
    return CiderReward(CiderTables(_cached(dataset, tokens, np.diff(bounds) + 1, np.diff(images))), numbers, words)


def _cached(dataset: Any, words: np.ndarray, lengths: np.ndarray, references: np.ndarray) -> dict[str, np.ndarray]:
    digest = hashlib.sha256(f'{_VERSION} {dataset.captions.digest}'.encode())
    for array in words, lengths, references:
        digest.update(array.tobytes())
    entry = None
    with contextlib.suppress(OSError):
        entry = entry_folder(dataset.cache_path)
        path = entry / f'cider-{digest.hexdigest()[:16]}.npz'
        with contextlib.suppress(InputError):           # missing or damaged
            return read_npz(path)
    arrays = CiderTables.build(words, lengths, references)
    with contextlib.suppress(OSError):                  # a full disk costs the preparation the next time, nothing else
        if entry is not None and prepare_entry(entry, dataset.cache_path):
            for old in entry.glob('cider-*'):
                old.unlink(missing_ok=True)
            write_npz(path, arrays)
    return arrays
