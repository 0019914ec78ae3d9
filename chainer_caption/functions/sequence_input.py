"""The LSTM's inputs: the images first, then the embedded words of every step, in one packed matrix."""
import functools
from typing import Any

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import HASH32_CUDA, Array, check_ids, compiled, hash32, parallel_for
from chainer_caption.functions.dropout import mask_arguments
from chainer_caption.functions.first_order import first_order


def sequence_input(image: Array | None, W: Array, words: Array, ratio: float, key: Any) -> chainer.Variable:
    """`concat([image, dropout(embed_id(words, W), ratio)], axis=0)`, (B + N, H) float32, with one copy instead of four.

    Args:
        image: The embedded images, (B, H) float32; None for words alone.
        W, words: The word embeddings, (V, H) float32, and word ids, (N,) int32, each in [0, V).
        ratio, key: Of the dropout of the embedded words, as for `dropout`.

    Raises:
        IndexError: A word id is not in [0, V). On a GPU its row is NaN instead.
    """
    if image is None:
        image = chainer.backend.get_array_module(W).empty((0, W.shape[1]), W.dtype)
    return _SequenceInput(words, ratio if chainer.config.train else 0, key).apply((image, W))[0]


class _SequenceInput(chainer.FunctionNode):
    def __init__(self, words, ratio, key):
        self.words = words
        self.mask = mask_arguments(ratio, key)

    def forward(self, inputs):
        (image, W), xp = inputs, chainer.backend.get_array_module(inputs[0])
        check_ids(self.words, len(W))
        self.shapes = len(image), W.shape
        y = xp.empty((len(image) + len(self.words), W.shape[1]), W.dtype)
        y[:len(image)] = image
        embedded = y[len(image):]
        if xp is np:
            parallel_for(_embed, len(self.words), W, self.words, embedded, *self.mask)
        else:
            _embed_kernel()(W, self.words[:, None], len(W), W.shape[1], *self.mask, embedded)
        return y,

    @first_order
    def backward(self, indexes: tuple[int, ...], gy: Array) -> tuple[Array, Array]:
        images, shape = self.shapes
        gimage, gembedded = gy[:images], gy[images:]
        xp = chainer.backend.get_array_module(gy)
        gW = xp.zeros(shape, gy.dtype)
        if xp is np:
            _add_by_word(gembedded, self.words, gW, *self.mask)
        else:
            _add_by_word_kernel()(gembedded, self.words[:, None], *shape, *self.mask, gW)
        return gimage, gW


@compiled
def _embed(W, words, y, key0, key1, threshold, scale, start, stop):
    width = W.shape[1]
    for row in range(start, stop):
        word = words[row]
        for j in range(width):
            kept = hash32(np.uint32(row * width + j), key0, key1) >= threshold
            y[row, j] = W[word, j] * scale if kept else np.float32(0)


@compiled
def _add_by_word(gy, words, gW, key0, key1, threshold, scale):
    # In the order of the rows, on one thread: the same sum every time.
    width = gW.shape[1]
    for row in range(len(words)):
        word = words[row]
        for j in range(width):
            kept = hash32(np.uint32(row * width + j), key0, key1) >= threshold
            gW[word, j] += gy[row, j] * scale if kept else np.float32(0)


_WORD = 'int32 word, int32 words, int32 width, uint32 key0, uint32 key1, uint32 threshold, float32 scale'

_embed_kernel = functools.partial(cuda.elementwise, f'raw T W, {_WORD}', 'T y', '''
    bool kept = hash32((unsigned int)i, key0, key1) >= threshold;
    bool known = word >= 0 && word < words;         // what is no word makes the loss NaN
    y = !known ? (T)NAN : kept ? W[(ptrdiff_t)word * width + i % width] * (T)scale : (T)0''',
    'caption_embed', preamble=HASH32_CUDA)

_add_by_word_kernel = functools.partial(cuda.elementwise, f'T gy, {_WORD}', 'raw T gW', '''
    bool kept = hash32((unsigned int)i, key0, key1) >= threshold;
    if (kept && word >= 0 && word < words) atomicAdd(&gW[(ptrdiff_t)word * width + i % width], gy * (T)scale)''',
    'caption_add_by_word', preamble=HASH32_CUDA)
