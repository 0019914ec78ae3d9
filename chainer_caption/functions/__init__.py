"""Chainer functions for captioning: the speed of the package lives here, for NumPy and for CuPy.

Each function is a `chainer.FunctionNode` over arrays of either library; what is not a matrix product runs in a compiled
loop (Numba) on the CPU and in an elementwise kernel on a GPU. None waits for the GPU.

The packed layout that all of them share: the captions of a minibatch, longest first, are cut into steps, and the rows
of all steps stand one under another in one matrix. Step t has as many rows as there are captions with more than t
words, so `batch_sizes`, the rows of each step, never increases and no row is padding.
"""
from chainer_caption.functions.adam import Adam
from chainer_caption.functions.dropout import dropout, mask_key
from chainer_caption.functions.linear import linear
from chainer_caption.functions.lstm import lstm_sequence
from chainer_caption.functions.sequence_input import sequence_input
from chainer_caption.functions.word_loss import word_loss

__all__ = ['Adam', 'dropout', 'linear', 'lstm_sequence', 'mask_key', 'sequence_input', 'word_loss']
