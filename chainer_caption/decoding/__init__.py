"""Searches: what a model says of an image. Each is a small frozen object that is called with a stepper and features."""
from chainer_caption.decoding.beam import Hypothesis, beam_search, check_options

__all__ = ['Hypothesis', 'beam_search', 'check_options']
