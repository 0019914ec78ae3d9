"""A release: captions in `dataset.json` and features in `vgg_feats.mat` or its like, checked as they are read."""
from chainer_caption.release.release import SPLITS, TRAINING_SPLITS, Release, record_origin

__all__ = ['SPLITS', 'TRAINING_SPLITS', 'Release', 'record_origin']
