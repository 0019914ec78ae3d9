"""Rollouts: captions that a decoder generates for images, word by word, sampled or greedy.

In self-critical training (Rennie et al. 2017), without dropout, sampling computes the same LSTM and the same softmax as
the loss. A decoder that records keeps them in its states; they are put into the packed order of a minibatch once the
captions' lengths are known, and only the backward pass of an update remains."""
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import Array
from chainer_caption.functions.inputs import count_inputs
from chainer_caption.functions.matmul import one_blas_thread
from chainer_caption.functions.sampling import sample_words, uniforms

_MAX_LENGTH = 4096      # Random numbers reserved for the words of a caption.

# A GPU is asked once in so many words which captions have ended. Those that have stay in the batch until then.
_CHECK_EVERY = 8

# Scores of all captions are kept for the loss up to this size; beyond it, the loss computes them again in blocks.
KEPT_BYTES = 256 * 2 ** 20


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Sampled captions, and what sampling has computed of their loss."""
    order: np.ndarray               #: the image of each caption, longest caption first, (B,) int64
    captions: list[np.ndarray]      #: the word ids of each, `</S>` last unless it was cut, int32; in the same order
    log_probs: Array                #: of each word, packed, nats, (N,) float32, on the device
    #: The LSTM's activated gates, c and h, packed, (N, 4H), (N, H), (N, H) float32; B rows more where it reads the
    #: image first. None of a decoder that does not record.
    recorded: tuple[Array, Array, Array] | None
    #: exp(score - highest), 0 for words that cannot be sampled, packed, (N, V) float32; None if not kept.
    scores: Array | None
    totals: Array                   #: the sums of the scores, packed, (N,) float32


@dataclasses.dataclass
class _Step:
    """One word of a rollout: the images of its rows, the words, the decoder's state, and what was chosen with them."""
    rows: np.ndarray
    words: np.ndarray
    state: Any
    chosen: tuple


def sample_captions(decoder: Any, features: Any, key: Sequence[int], start: int, end: int, suppressed: Sequence[int],
                    length: int, numbers: np.ndarray | None = None) -> Sampled:
    """Samples a caption for each image from the softmax of the model's scores.

    Args:
        decoder, features: See `models.decoder`; features of n images.
        key: Two uint32 words, from `mask_key`: the seed.
        start, end: The word that is read first, and the one that ends a caption.
        suppressed: Words that are not sampled; the others share their probability.
        length: Maximum number of words, `end` included, 1 to 4096 (else a ValueError); longer captions are cut.
        numbers: The number of each row, from which with the key its random numbers follow, (n,) int. Processes that
            share a minibatch give the places in the whole minibatch. None for 0 to n - 1.

    """
    if not 1 <= length <= _MAX_LENGTH:
        raise ValueError(f'length {length}: must be between 1 and {_MAX_LENGTH}')
    numbers = np.arange(count_inputs(features)) if numbers is None else numbers
    device, bias, records = decoder.device, _possible(decoder.bias, suppressed), getattr(decoder, 'records', False)
    kept: list[Array] | None = []
    sent: tuple[Any, Any] = None, None

    def choose(scores: Array, rows: np.ndarray, place: int) -> tuple:
        nonlocal kept, sent
        if sent[0] is not rows:                         # they change when captions end
            sent = rows, device.send(numbers[rows].astype(np.int64) * _MAX_LENGTH)
        words, log_probs, totals = sample_words(scores, bias, uniforms(key, sent[1] + place),
                                                keep=records and kept is not None)
        if records and kept is not None:
            kept.append(scores)
            if sum(part.nbytes for part in kept) > KEPT_BYTES:
                kept = None
        return words.clip(end, None).astype(np.int32), log_probs.astype(np.float32), totals

    begun, steps = _rollout(decoder, features, start, end, length, choose, keep_states=records)
    captions = _captions(count_inputs(features), steps, end)
    lengths = np.array([len(caption) for caption in captions])
    rank = np.argsort(order := np.argsort(-lengths, kind='stable'))
    # The packed row of each word, -1 for words behind the end of their caption.
    bounds = np.cumsum([0, *((lengths > t).sum() for t in range(len(steps)))])
    places = [np.where(lengths[step.rows] > t, bounds[t] + rank[step.rows], -1) for t, step in enumerate(steps)]
    log_probs, totals = (_packed([step.chosen[i] for step in steps], places) for i in range(2))
    recorded = None
    if records:
        states, state_places = [step.state for step in steps], places
        if begun.gates is not None:                     # the LSTM has read the images: B rows before all words
            states = [begun, *states]
            state_places = [rank, *(np.where(place < 0, -1, place + len(rank)) for place in places)]
        recorded = tuple(_packed([getattr(state, name) for state in states], state_places)
                         for name in ('gates', 'c', 'h'))
        del states
    steps.clear()
    scores = _packed(kept, places) if kept else None
    return Sampled(order, [captions[i] for i in order], log_probs, recorded, scores, totals)


def greedy_captions(decoder: Any, features: Any, start: int, end: int, suppressed: Sequence[int],
                    length: int) -> list[np.ndarray]:
    """The captions made of the likeliest word at each place; arguments as for `sample_captions`. Returns the word ids
    of each image's caption, `end` last unless it was cut, int32."""
    bias = _possible(decoder.bias, suppressed)

    def choose(scores: Array, rows: np.ndarray, place: int) -> tuple:
        scores += bias
        return scores.argmax(axis=1).astype(np.int32),
    return _captions(count_inputs(features), _rollout(decoder, features, start, end, length, choose, False)[1], end)


def _rollout(decoder: Any, features: Any, start: int, end: int, length: int, choose: Callable,
             keep_states: bool) -> tuple[Any, list[_Step]]:
    """Generates words until all captions have ended; the state after `decoder.start`, and the steps. `choose` takes the
    scores without the biases, the images of their rows, and the place of the word; it returns the words, int32 on the
    device of the scores, and what else is to be stored with the step."""
    xp = decoder.device.xp
    every, records = 1 if xp is np else _CHECK_EVERY, getattr(decoder, 'records', False)
    rows, steps, unread = np.arange(count_inputs(features)), [], []
    parents: np.ndarray | None = rows
    tokens: Array = np.full(len(rows), start, np.int32)
    with one_blas_thread():
        begun = state = decoder.start(features)
        for place in range(length):
            if parents is None and not records:
                parents = np.arange(len(rows))
            state, scores = decoder.step(state, parents, tokens)
            tokens, *chosen = choose(scores, rows, place)
            steps.append(_Step(rows, tokens, state if keep_states else None, tuple(chosen)))
            unread.append(steps[-1])
            parents = None                              # each row goes on
            if len(unread) < every and place + 1 < length:
                continue
            words = cuda.to_cpu(xp.concatenate([step.words[None] for step in unread]))      # a GPU is waited for here
            for step, of_step in zip(unread, words, strict=True):
                step.words = of_step
            unread.clear()
            alive = np.flatnonzero(~(words == end).any(axis=0))
            if not len(alive):
                break
            if len(alive) < len(rows):
                rows, parents, tokens = rows[alive], alive, words[-1, alive]
    return begun, steps


def _captions(count: int, steps: list[_Step], end: int) -> list[np.ndarray]:
    words = np.full((len(steps), count), -1, np.int32)
    for t, step in enumerate(steps):
        words[t, step.rows] = step.words
    ends = words == end
    lengths = np.where(ends.any(axis=0), ends.argmax(axis=0) + 1, len(steps))
    return [words[:length, i].copy() for i, length in enumerate(lengths)]


def _packed(parts: list[Any], places: list[np.ndarray]) -> Array:
    """Rows of parts, put where `places` says, -1 for nowhere. The parts are used up."""
    xp = cuda.get_array_module(parts[0])
    place = np.concatenate(places)
    count = np.count_nonzero(place >= 0)
    if xp is not np:
        source = np.empty(count, np.int64)
        source[place[place >= 0]] = np.flatnonzero(place >= 0)
        return xp.concatenate(parts)[xp.asarray(source)]
    packed = np.empty((count, *parts[0].shape[1:]), parts[0].dtype)
    for i, to in enumerate(places):
        packed[to] = parts[i]
        parts[i] = None                                 # large parts are freed one by one
    return packed


def _possible(bias: Array, suppressed: Sequence[int]) -> Array:
    bias = bias.copy()
    for word in suppressed:
        bias[word] = -np.inf
    return bias
