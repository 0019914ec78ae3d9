"""Fast Chainer functions for captioning, for NumPy and CuPy: models, decoding and objectives import from here only. On
the CPU, matrix products run in BLAS and everything else in compiled loops (Numba); on a GPU, in elementwise kernels.
None of them waits for the GPU.

Packed layout: the captions of a minibatch, longest first, are cut into steps, and the rows of all steps stand one under
another in one matrix. Step t has as many rows as there are captions with more than t words, so `batch_sizes`, the
number of rows of each step, never increases and no row is padding."""
from chainer_caption.functions.adam import Adam
from chainer_caption.functions.compiled import Array
from chainer_caption.functions.dropout import apply_mask, dropout, mask_key
from chainer_caption.functions.inputs import count_inputs, map_inputs
from chainer_caption.functions.linear import linear
from chainer_caption.functions.lstm import lstm_sequence
from chainer_caption.functions.lstm_cell import lstm_cell, lstm_step
from chainer_caption.functions.matmul import PRECISIONS, arithmetic, matmul, one_blas_thread, prepack, using_precision
from chainer_caption.functions.memory import enough_memory, free_bytes
from chainer_caption.functions.rollout import Sampled, greedy_captions, sample_captions
from chainer_caption.functions.sampling import sample_words, uniforms
from chainer_caption.functions.sequence_input import sequence_input
from chainer_caption.functions.softmax import add_probabilities
from chainer_caption.functions.topk import beam_topk
from chainer_caption.functions.word_loss import word_loss

__all__ = ['PRECISIONS', 'Adam', 'Array', 'Sampled', 'add_probabilities', 'apply_mask', 'arithmetic', 'beam_topk',
           'count_inputs', 'dropout', 'enough_memory', 'free_bytes', 'greedy_captions', 'linear', 'lstm_cell',
           'lstm_sequence', 'lstm_step', 'map_inputs', 'mask_key', 'matmul', 'one_blas_thread', 'prepack',
           'sample_captions', 'sample_words', 'sequence_input', 'uniforms', 'using_precision', 'word_loss']
