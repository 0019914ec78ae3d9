"""Turns pictures into features: networks and their weights, preprocessing, and which of them made given features.

Data conventions: a picture is RGB, (H, W, 3), uint8; prepared for a network it is (3, S, S), float32; features are
(N, D), float32, a row for each picture.
"""
from chainer_caption.features.check import FeatureCheck, check_features
from chainer_caption.features.extractor import Extractor
from chainer_caption.features.networks import NETWORKS
from chainer_caption.features.pictures import PictureError, find_pictures, read_picture
from chainer_caption.features.profiles import PROFILES

__all__ = ['NETWORKS', 'PROFILES', 'Extractor', 'FeatureCheck', 'PictureError', 'check_features', 'find_pictures',
           'read_picture']
