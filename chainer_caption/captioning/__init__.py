"""Images or stored features in, captions out, and from there into files: the API that most users need."""
from chainer_caption.captioning.captioner import Captioner
from chainer_caption.captioning.results import Caption, Result

__all__ = ['Caption', 'Captioner', 'Result']
