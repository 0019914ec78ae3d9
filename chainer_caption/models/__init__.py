"""Captioning models: the architectures as Chainer chains, their decoders, and the model directory.

An architecture of one's own is a subclass of `Architecture` under `@register_architecture('name')`; see there."""
from chainer_caption.models.architecture import ARCHITECTURES, Architecture, register_architecture
from chainer_caption.models.encoder_decoder import EncoderDecoder
from chainer_caption.models.imported import Imported
from chainer_caption.models.merge import Merge
from chainer_caption.models.show_and_tell import ShowAndTell

__all__ = ['ARCHITECTURES', 'Architecture', 'EncoderDecoder', 'Imported', 'Merge', 'ShowAndTell',
           'register_architecture']
