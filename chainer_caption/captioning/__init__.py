"""Pictures or stored features in, captions out: the API that most users need, and captions on their way into files."""
from chainer_caption.captioning.captioner import Caption, Captioner, Result

__all__ = ['Caption', 'Captioner', 'Result']
