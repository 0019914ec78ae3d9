"""Addresses and licences of datasets and encoder weights.

The publishers give no checksums. Archives have their own; other files are compared with the size that servers state.
"""
import dataclasses

from chainer_caption.features.encoders import VGG_SOURCE

_KARPATHY = 'https://cs.stanford.edu/people/karpathy/deepimagesent/'    # captions, splits and VGG features
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
    """A file to download: its address, its licence or terms, and whether to leave out (`strip`) the one folder that
    holds everything in the archive."""
    url: str
    licence: str
    strip: bool = False


#: Datasets by name: captions and features.
DATASETS = {
    name: Source(f'{_KARPATHY}{name}.zip', licence, strip=True)
    for name, licence in (('flickr8k', _OF_FLICKR), ('flickr30k', _OF_FLICKR), ('coco', _OF_COCO))}
#: Their images, which training and captioning of a dataset do not need. Flickr30k's are sent on request only.
IMAGES = {'flickr8k': (Source(_FLICKR8K + 'Flickr8k_Dataset.zip', _OF_FLICKR),),
          'coco': (Source(_COCO + 'train2014.zip', _OF_COCO), Source(_COCO + 'val2014.zip', _OF_COCO))}
#: Weights of encoders by name.
WEIGHTS = {f'vgg{layers}': Source(f'{VGG_SOURCE}VGG_ILSVRC_{layers}_layers.caffemodel', _OF_VGG) for layers in (19, 16)}
