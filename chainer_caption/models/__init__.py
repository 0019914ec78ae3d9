"""Captioning models, as Chainer chains."""
from chainer_caption.models.show_and_tell import ShowAndTell

__all__ = ['ShowAndTell']
