"""The vocabulary of a training, and the weights of words that are added to a model's."""
from typing import Any

import numpy as np

from chainer_caption.data.text import Text
from chainer_caption.data.vocabulary import SPECIAL, UNK, Vocabulary
from chainer_caption.errors import InputError
from chainer_caption.models import bundle
from chainer_caption.storage.files import read_json
from chainer_caption.training.updater import Say

MOST_UNKNOWN = 0.2      #: of the training tokens, the share of <UNK> above which a vocabulary is too small
_SMALL = 10_000         # a training set of fewer captions is small: its min_count is chosen by MOST_UNKNOWN


def make_vocabulary(plan: Any, dataset: Any, notice: Say, text: Text | None = None) -> tuple[Vocabulary, int]:
    """The vocabulary of a `Plan`, and the `min_count` that it is made with. Raises InputError where no word is left.

    Where `min_count` is None it is 5, or 2 to extend a vocabulary; with fewer than 10,000 training captions it is the
    largest number up to 5 that leaves out at most 20 % of their tokens. How often a word occurs in a text counts, too;
    words of the text alone join by `text_min_count`.
    """
    settings, model = plan.settings, plan.model
    min_count = settings.min_count or (2 if settings.extend_vocabulary else 5)
    if model is None and plan.folder is not None and (plan.folder / bundle.VOCABULARY).exists():
        path = plan.folder / bundle.VOCABULARY
        return Vocabulary.from_json(read_json(path), path), min_count
    counts, captions = dataset.word_counts(*dataset.training_splits)
    tokens, numbers = sum(counts.values()), np.array([*counts.values()])
    of_text = text.word_counts() if text is not None else {}
    together = numbers + np.array([of_text.get(word, 0) for word in counts])
    if model is None and settings.min_count is None and captions < _SMALL:
        min_count = next((count for count in range(5, 1, -1)
                          if numbers[together < count].sum() <= MOST_UNKNOWN * tokens), 1)
        if min_count < 5:
            notice(f'{dataset.dataset_path}: {captions:,} training captions are few: the vocabulary has the words '
                   f'that occur {min_count} times or more (min_count {min_count}, not 5)'
                   + '; they have one word each: split them with another --tokenizer' * (tokens < 2 * captions))
    found = counts, captions + len(text or ()), min_count, of_text, settings.text_min_count
    if model is None:
        vocabulary = Vocabulary.from_counts(*found)
    else:
        vocabulary = model.vocabulary.extended(*found) if settings.extend_vocabulary else model.vocabulary
    if len(vocabulary) == len(SPECIAL):
        raise InputError(f'{dataset.dataset_path}: no word occurs {min_count} times or more in the {captions:,} '
                         'training captions; lower min_count or add captions')
    if settings.extend_vocabulary:
        notice(f'{dataset.dataset_path}: {len(vocabulary) - len(model.vocabulary):,} words are added to the '
               f'{len(model.vocabulary):,} of the model')
    unknown = sum(count for word, count in counts.items() if vocabulary.encode([word])[0] == UNK) / tokens
    if unknown > MOST_UNKNOWN:
        notice(f'{dataset.dataset_path}: {unknown:.0%} of the training tokens are not in the vocabulary (<UNK>); '
               + ('add them with --extend-vocabulary, or train a new model, without -m' if model is not None else
                  'lower --min-count, add captions, or check that the captions are split into words (--tokenizer)'))
    return vocabulary, min_count


def with_new_words(arrays: dict[str, np.ndarray], model: Any, old: Vocabulary,
                   vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The weights of a model of the `old` vocabulary, as those of a `model` with words behind it.

    Old words keep their weights. New ones begin with the mean of all words' weights, and with a bias that relates to
    how often the new captions have them as the old words' biases do, so that they are neither likely nor impossible."""
    added = len(vocabulary) - len(old)
    if not added:
        return arrays
    counts = np.array(vocabulary.counts)
    counts[:len(old)] -= old.counts
    counts[:len(SPECIAL)] = 0
    arrays = dict(arrays)
    for path, param in model.namedparams():
        name = path.lstrip('/')
        for axis in range(param.ndim):
            array = arrays[name]
            if array.shape[axis] == param.shape[axis]:
                continue
            words = np.take(array, range(len(SPECIAL), len(old)), axis)
            new = np.repeat(words.mean(axis, keepdims=True, dtype=np.float64), added, axis)
            if name == 'out_word/b':
                new = _biases(array, counts)
            arrays[name] = np.concatenate([array, new.astype(array.dtype)], axis)
    return arrays


def _biases(b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The biases of new words, the last `counts`: ln count, and what the old ones have more on average of a token."""
    logs, old = np.log(np.maximum(counts, 1)), counts[:len(b)]
    weights = old if old.any() else np.ones(len(b))
    return logs[len(b):] + np.average(b - logs[:len(b)], weights=weights)
