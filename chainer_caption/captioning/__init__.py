"""Images or stored features in, captions out: the API that most users need, and captions on their way into files."""
from chainer_caption.captioning.captioner import Captioner
from chainer_caption.captioning.results import Caption, Result

__all__ = ['Caption', 'Captioner', 'Result']
