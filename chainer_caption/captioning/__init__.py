"""Captions of images or stored features, and files of them: the API that most users need."""
from chainer_caption.captioning.captioner import Captioner
from chainer_caption.captioning.results import Caption, Result

__all__ = ['Caption', 'Captioner', 'Result']
