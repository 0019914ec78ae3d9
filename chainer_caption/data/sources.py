"""Where data sets and encoders are to be had, and under which licence.

None of the publishers prints a checksum of these files; the archives have their own, and the rest is held against the
size that the server says.
"""
import dataclasses

from chainer_caption.features.encoders import VGG_SOURCE

# Karpathy and Fei-Fei's datasets: captions, splits and VGG's features.
_KARPATHY = 'https://cs.stanford.edu/people/karpathy/deepimagesent/'

# A copy of the images that needs no form to be filled in, as the university's own does.
_FLICKR8K = 'https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/'

# What http://images.cocodataset.org serves, by an address whose certificate is valid.
_COCO = 'https://s3.amazonaws.com/images.cocodataset.org/zips/'

_OF_FLICKR = ('for research and education that is not commercial, by the terms of Flickr8k and Flickr30k; the images '
              'belong to their photographers')
_OF_COCO = "captions: Creative Commons Attribution 4.0; images: Flickr's terms of use"
_OF_VGG = 'Creative Commons Attribution, by Simonyan and Zisserman'


@dataclasses.dataclass(frozen=True)
class Source:
    """A file to be had.

    Attributes:
        url (str): Its address.
        licence (str): Under which licence it comes, or whose terms hold.
        strip (bool): Whether the one folder that all in the archive is in is left out.
    """
    url: str
    licence: str
    strip: bool = False


#: Datasets by name: captions and features.
RELEASES = {'flickr8k': Source(_KARPATHY + 'flickr8k.zip', _OF_FLICKR, strip=True),
            'flickr30k': Source(_KARPATHY + 'flickr30k.zip', _OF_FLICKR, strip=True),
            'coco': Source(_KARPATHY + 'coco.zip', _OF_COCO, strip=True)}

#: Their images, which training and captioning of a dataset do not need. Flickr30k's are sent on request alone.
IMAGES = {'flickr8k': (Source(_FLICKR8K + 'Flickr8k_Dataset.zip', _OF_FLICKR),),
            'coco': (Source(_COCO + 'train2014.zip', _OF_COCO), Source(_COCO + 'val2014.zip', _OF_COCO))}

#: Weights of encoders by name.
WEIGHTS = {'vgg19': Source(VGG_SOURCE + 'VGG_ILSVRC_19_layers.caffemodel', _OF_VGG),
           'vgg16': Source(VGG_SOURCE + 'VGG_ILSVRC_16_layers.caffemodel', _OF_VGG)}
