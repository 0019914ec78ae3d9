"""Captioning models: the architectures as Chainer chains, what searches take of them (steppers), and the model
directory, which holds everything that a trained captioner is.
"""
from chainer_caption.models.show_and_tell import ShowAndTell

__all__ = ['ShowAndTell']
