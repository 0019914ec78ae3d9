"""Searches for captions. Each is a small frozen object that checks its options when it is made, and is called with a
decoder (see `models.decoder`) and features."""
from chainer_caption.decoding.beam import BeamSearch
from chainer_caption.decoding.diverse import DiverseBeamSearch
from chainer_caption.decoding.sampling import Sampling
from chainer_caption.decoding.search import Hypothesis

__all__ = ['BeamSearch', 'DiverseBeamSearch', 'Hypothesis', 'Sampling']
