"""What a captioner learns from: a dataset (`dataset.json` and `vgg_feats.mat` or its like, checked as they are read),
its vocabulary, its minibatches; and how a folder of images and anybody's captions become a dataset.
"""
from chainer_caption.data.dataset import SPLITS, TRAINING_SPLITS, Dataset, record_provenance
from chainer_caption.data.vocabulary import Vocabulary

__all__ = ['SPLITS', 'TRAINING_SPLITS', 'Dataset', 'Vocabulary', 'record_provenance']
