"""Datasets (`dataset.json` and feature files, checked as they are read), vocabularies, minibatches; their making."""
from chainer_caption.data.combined import combine
from chainer_caption.data.dataset import SPLITS, TRAINING_SPLITS, Dataset
from chainer_caption.data.matrix import record_provenance
from chainer_caption.data.vocabulary import Vocabulary

__all__ = ['SPLITS', 'TRAINING_SPLITS', 'Dataset', 'Vocabulary', 'combine', 'record_provenance']
