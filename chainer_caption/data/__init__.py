"""Datasets (`dataset.json` and feature files, checked as they are read), vocabularies, minibatches; and how a folder of
images and caption files become a dataset.
"""
from chainer_caption.data.dataset import SPLITS, TRAINING_SPLITS, Dataset, record_provenance
from chainer_caption.data.vocabulary import Vocabulary

__all__ = ['SPLITS', 'TRAINING_SPLITS', 'Dataset', 'Vocabulary', 'record_provenance']
