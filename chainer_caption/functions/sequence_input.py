"""What the LSTM reads: the image first, then the embedded words of every step, in one packed matrix."""
import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.functions.compiled import HASH32_CUDA, compiled, hash32, parallel_for
from chainer_caption.functions.dropout import mask_arguments


def sequence_input(image, W, words, ratio, key):
    """Puts the embedded words, with dropout, under the images.

    Equal to `concat([image, dropout(embed_id(words, W), ratio)], axis=0)`, with one copy instead of four.

    Args:
        image (chainer.Variable, array or None): The embedded images, (B, H) float32; None for words alone.
        W (chainer.Variable or array): The word embeddings, (V, H) float32.
        words (array): Word ids, (N,) int32, each in [0, V).
        ratio (float): Dropout of the embedded words; none outside training.
        key: Two uint32 words for the mask, from `mask_key`.

    Returns:
        chainer.Variable: (B + N, H) float32.
    """
    if image is None:
        image = chainer.backend.get_array_module(W).empty((0, W.shape[1]), W.dtype)
    return _SequenceInput(words, ratio if chainer.config.train else 0, key).apply((image, W))[0]


class _SequenceInput(chainer.FunctionNode):

    def __init__(self, words, ratio, key):
        self.words = words
        self.mask = mask_arguments(ratio, key)

    def forward(self, inputs):
        image, W = inputs
        self.shapes = len(image), W.shape
        xp = chainer.backend.get_array_module(W)
        y = xp.empty((len(image) + len(self.words), W.shape[1]), W.dtype)
        y[:len(image)] = image
        embedded = y[len(image):]
        if xp is np:
            parallel_for(_embed, len(self.words), W, self.words, embedded, *self.mask)
        else:
            _embed_kernel()(W, self.words[:, None], W.shape[1], *self.mask, embedded)
        return y,

    def backward(self, indexes, grad_outputs):
        gy = grad_outputs[0].array
        images, shape = self.shapes
        gimage, gembedded = gy[:images], gy[images:]
        xp = chainer.backend.get_array_module(gy)
        gW = xp.zeros(shape, gy.dtype)
        if xp is np:
            _add_by_word(gembedded, self.words, gW, *self.mask)
        else:
            _add_by_word_kernel()(gembedded, self.words[:, None], shape[1], *self.mask, gW)
        return chainer.as_variable(gimage), chainer.as_variable(gW)


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


@cuda.memoize()
def _embed_kernel():
    return cuda.cupy.ElementwiseKernel(
        'raw T W, int32 word, int32 width, uint32 key0, uint32 key1, uint32 threshold, float32 scale', 'T y',
        '''
        bool kept = hash32((unsigned int)i, key0, key1) >= threshold;
        y = kept ? W[(ptrdiff_t)word * width + i % width] * (T)scale : (T)0
        ''', 'caption_embed', preamble=HASH32_CUDA)


@cuda.memoize()
def _add_by_word_kernel():
    return cuda.cupy.ElementwiseKernel(
        'T gy, int32 word, int32 width, uint32 key0, uint32 key1, uint32 threshold, float32 scale', 'raw T gW',
        '''
        bool kept = hash32((unsigned int)i, key0, key1) >= threshold;
        if (kept) atomicAdd(&gW[(ptrdiff_t)word * width + i % width], gy * (T)scale)
        ''', 'caption_add_by_word', preamble=HASH32_CUDA)
