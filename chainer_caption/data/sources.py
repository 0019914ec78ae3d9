"""Addresses and licences of datasets and encoder weights.

The publishers give no checksums of these files. Archives have their own; the size of other files is compared with the
size that the server states.
"""
from __future__ import annotations

import dataclasses

from chainer_caption.features.encoders import VGG_SOURCE

# Karpathy and Fei-Fei's datasets: captions, splits and VGG features.
_KARPATHY = 'https://cs.stanford.edu/people/karpathy/deepimagesent/'

# A copy of the images that needs no form to be filled in, unlike the university's own.
_FLICKR8K = 'https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/'

# The content of http://images.cocodataset.org, at an address whose certificate is valid.
_COCO = 'https://s3.amazonaws.com/images.cocodataset.org/zips/'

_OF_FLICKR = ('for research and education that is not commercial, by the terms of Flickr8k and Flickr30k; the images '
              'belong to their photographers')
_OF_COCO = "captions: Creative Commons Attribution 4.0; images: Flickr's terms of use"
_OF_VGG = 'Creative Commons Attribution, by Simonyan and Zisserman'


@dataclasses.dataclass(frozen=True)
class Source:
    """A file to download.

    Attributes:
        url: Its address.
        licence: Its licence or terms.
        strip: Whether to leave out the one folder that holds everything in the archive.
    """
    url: str
    licence: str
    strip: bool = False


#: Datasets by name: captions and features.
DATASETS = {'flickr8k': Source(_KARPATHY + 'flickr8k.zip', _OF_FLICKR, strip=True),
            'flickr30k': Source(_KARPATHY + 'flickr30k.zip', _OF_FLICKR, strip=True),
            'coco': Source(_KARPATHY + 'coco.zip', _OF_COCO, strip=True)}
RELEASES = DATASETS                                     # the name before

#: Their images, which training and captioning of a dataset do not need. Flickr30k's are sent on request only.
IMAGES = {'flickr8k': (Source(_FLICKR8K + 'Flickr8k_Dataset.zip', _OF_FLICKR),),
          'coco': (Source(_COCO + 'train2014.zip', _OF_COCO), Source(_COCO + 'val2014.zip', _OF_COCO))}

#: Weights of encoders by name.
WEIGHTS = {'vgg19': Source(VGG_SOURCE + 'VGG_ILSVRC_19_layers.caffemodel', _OF_VGG),
           'vgg16': Source(VGG_SOURCE + 'VGG_ILSVRC_16_layers.caffemodel', _OF_VGG)}
