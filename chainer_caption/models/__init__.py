"""Captioning models: the architectures as Chainer chains, what searches take of them (steppers), and the model
directory, which holds everything that a trained captioner is.
"""
from chainer_caption.models.architecture import Architecture
from chainer_caption.models.encoder_decoder import EncoderDecoder
from chainer_caption.models.imported import Imported
from chainer_caption.models.merge import Merge
from chainer_caption.models.show_and_tell import ShowAndTell

__all__ = ['ARCHITECTURES', 'Architecture', 'EncoderDecoder', 'Imported', 'Merge', 'ShowAndTell']

#: The architectures by the names that `config.json` has for them.
ARCHITECTURES = {model.architecture: model for model in (ShowAndTell, EncoderDecoder, Merge, Imported)}
