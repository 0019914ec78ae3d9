"""Turns pictures into features: networks and their weights, preprocessing, and which of them made given features.

Data conventions: a picture is RGB, (H, W, 3), uint8; prepared for a network it is (3, S, S), float32; features are
(N, D), float32, a row for each picture.
"""
from chainer_caption.features.ahead import BATCH, prepared_batches
from chainer_caption.features.check import FeatureCheck, check_features, find_extractors, sample_pictures
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.folders import find_pictures
from chainer_caption.features.networks import NETWORKS
from chainer_caption.features.pictures import PictureError, read_picture
from chainer_caption.features.profiles import PROFILES
from chainer_caption.features.store import Splitting, extract_features

__all__ = ['BATCH', 'NETWORKS', 'PROFILES', 'Extractor', 'FeatureCheck', 'PictureError', 'Splitting', 'check_features',
           'extract_features', 'find_extractors', 'find_pictures', 'prepared_batches', 'read_picture',
           'sample_pictures']
