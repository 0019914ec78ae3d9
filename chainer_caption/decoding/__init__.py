"""Searches: what a model says of an image. Each is a small frozen object, which checks itself when it is made and is
called with a stepper and features.
"""
from chainer_caption.decoding.beam import BeamSearch
from chainer_caption.decoding.diverse import DiverseBeamSearch
from chainer_caption.decoding.sampling import Sampling
from chainer_caption.decoding.search import Hypothesis

__all__ = ['BeamSearch', 'DiverseBeamSearch', 'Hypothesis', 'Sampling']
