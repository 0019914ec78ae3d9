"""Train image captioners from features computed beforehand, and caption pictures with them, on Chainer.

    from chainer_caption import Captioner
    captioner = Captioner.load('model', image_weights='VGG_ILSVRC_19_layers.caffemodel')
    for result in captioner.caption('holiday/'):
        print(result.path, result.error or result.captions[0].text)
"""
import chainer_caption.compat  # noqa: F401 (before anything imports Chainer)
from chainer_caption.bundle import Bundle
from chainer_caption.captioner import Caption, Captioner, Result
from chainer_caption.errors import InputError
from chainer_caption.release import Release
from chainer_caption.training import Settings, train
from chainer_caption.vocabulary import Vocabulary

__all__ = ['Bundle', 'Caption', 'Captioner', 'InputError', 'Release', 'Result', 'Settings', 'Vocabulary', 'train']
__version__ = '1.0.0'
