"""What a captioner learns from: a release (`dataset.json` and `vgg_feats.mat` or its like, checked as they are read),
its vocabulary, its minibatches; and how a folder of pictures and anybody's captions become a release.
"""
from chainer_caption.data.release import SPLITS, TRAINING_SPLITS, Release, record_origin
from chainer_caption.data.vocabulary import Vocabulary

__all__ = ['SPLITS', 'TRAINING_SPLITS', 'Release', 'Vocabulary', 'record_origin']
