"""Images in, features out: an encoder with its weights and the preprocessing that belongs to them."""
import copy

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.errors import InputError
from chainer_caption.features.encoders import described, is_of
from chainer_caption.features.images import MAX_PIXELS, open_image
from chainer_caption.features.memory import return_large_blocks
from chainer_caption.features.micro_batches import InSlices
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.features.weights import find_weights, load_weights
from chainer_caption.functions.memory import enough_memory
from chainer_caption.storage.files import sample_digest


class Extractor:
    """Turns images into features, in two steps so that they can overlap.

    `prepare` reads one image and may run in several threads; calling the extractor runs the encoder on a batch::

        extractor = Extractor.load('vgg19', weights='VGG_ILSVRC_19_layers.caffemodel')
        features = extractor([extractor.prepare(path) for path in paths])

    Attributes:
        encoder (str): Name of the encoder.
        preprocessing (str): Name of the preprocessing that images are prepared by.
        dim (int): Dimension D of the features.
        device (chainer.backend.Device): Where the encoder runs.
        identity (dict): What the features depend on, as JSON values: encoder, preprocessing, a digest of the weights'
            file (None if there was none), whether EXIF is honoured, the limit of pixels, and whose arithmetic.
    """

    def __init__(self, encoder, preprocessing, link, honour_exif=True, max_pixels=MAX_PIXELS):
        self.encoder = encoder
        self.preprocessing = _fitting(preprocessing, encoder)
        self.dim = described(encoder).dim
        self.device = link.device
        self._compute = self._best_way(link)
        self._honour_exif = honour_exif
        self._max_pixels = max_pixels
        self._weights = None

    def _best_way(self, link):
        # Chainer's own convolutions are made for training and for cuDNN; an encoder may know better for inference.
        if isinstance(self.device, chainer.backend.CpuDevice) and hasattr(link, 'inference'):
            return link.inference()
        if self.device.xp is cuda.cupy:
            return InSlices(lambda x: link(x).array, self.device)
        return lambda x: link(self.device.send(x)).array

    @classmethod
    def load(cls, encoder='vgg19', preprocessing=None, weights=None, device='@numpy', honour_exif=True,
             max_pixels=MAX_PIXELS):
        """Makes an extractor from weights on the disk.

        Args:
            encoder (str): One of `ENCODERS`, or one that was fine-tuned from it.
            preprocessing (str): One of `PREPROCESSINGS`. By default the one that the weights want (`torchvision` for
                VGG's from there), or else the encoder's (`karpathy` for VGG).
            weights (str or os.PathLike): A file that `load_weights` takes; see `find_weights` for the default.
            device (str or chainer.backend.Device): As `chainer.get_device` takes it.
            honour_exif (bool): Turn images as their EXIF orientation says.
            max_pixels (int): Refuse images of more.

        Raises:
            InputError: Unknown encoder or preprocessing, a preprocessing of another size than the encoder's, or weights
                that are missing, damaged or another encoder's, or want their images otherwise.
        """
        return_large_blocks()
        link, digest, wanted = load_encoder(encoder, weights)
        with enough_memory(chainer.get_device(device)):
            link.to_device(device)
        extractor = cls(encoder, preprocessing or wanted, link, honour_exif, max_pixels)
        _check_colours(extractor, wanted)
        extractor._weights = digest
        return extractor

    @property
    def identity(self):
        return {'encoder': self.encoder, 'preprocessing': self.preprocessing, 'weights': self._weights,
                'EXIF': self._honour_exif, 'max-pixels': self._max_pixels, 'device': self.device.xp.__name__}

    def with_preprocessing(self, preprocessing):
        """The same encoder, its weights shared, with images prepared by another preprocessing.

        Raises:
            InputError: No such preprocessing, or one of another size than the encoder's.
        """
        sibling = copy.copy(self)
        sibling.preprocessing = _fitting(preprocessing, self.encoder)
        return sibling

    def prepare(self, path):
        """Reads and prepares one image.

        Args:
            path (str, os.PathLike or binary file): The image.

        Returns:
            numpy.ndarray: Shape (3, S, S), float32; (3, H, W) by a preprocessing without a size.

        Raises:
            ImageError: As `open_image`, or it is too small.
        """
        return prepare(path, PREPROCESSINGS[self.preprocessing], self._honour_exif, self._max_pixels)

    def __call__(self, images):
        """Computes the features of prepared images; those of a preprocessing without a size one by one.

        Args:
            images (numpy.ndarray or list of numpy.ndarray): N images as `prepare` gives them, one at least.

        Returns:
            numpy.ndarray or cupy.ndarray: Shape (N, D), float32, on the extractor's device.

        Raises:
            InputError: On a GPU there is no room for a single image. Where there is none for all of them at once,
                they are computed one after another.
        """
        # Features are those of float32, whatever they are captioned with.
        with chainer.using_device(self.device), chainer.using_config('train', False), chainer.no_backprop_mode(), \
                chainer.using_config('precision', 'float32'):
            if PREPROCESSINGS[self.preprocessing].size is not None:
                return self._compute(np.asarray(images, np.float32))
            return self.device.xp.concatenate([self._compute(image[None]) for image in images])


def load_encoder(encoder, weights=None):
    """Loads an encoder on the CPU.

    Args:
        encoder (str): Its name, as for `Extractor.load`.
        weights (str or os.PathLike or None): Its file, as for `Extractor.load`.

    Returns:
        tuple: The link; `sample_digest` of the file; and the name of the preprocessing that such weights want.

    Raises:
        InputError: As `Extractor.load`.
    """
    known = described(encoder)
    path = find_weights(known, weights)
    digest = sample_digest(path)
    if not is_of(encoder, digest):
        raise InputError(f'{path}: not the weights of the encoder {encoder}; name the encoder.npz of the model that it '
                         'was fine-tuned with, with -i')
    link = known.link()
    return link, digest, load_weights(link, path) or known.preprocessing


def prepare(path, preprocessing, honour_exif=True, max_pixels=MAX_PIXELS):
    """Reads an image and prepares it for an encoder; arguments as for `open_image`, and a Preprocessing.

    Returns:
        numpy.ndarray: As of `Preprocessing.prepare`.

    Raises:
        ImageError: As `open_image`, and as `Preprocessing.prepare`.
    """
    with open_image(path, honour_exif, max_pixels, preprocessing.least) as image:
        return preprocessing.prepare(image)


def _check_colours(extractor, wanted):
    # The one encoder with weights of both kinds; of those that have no other, everybody knows what they want.
    taken, given = PREPROCESSINGS[wanted].channels, PREPROCESSINGS[extractor.preprocessing].channels
    if extractor.encoder == 'resnet101' and taken != given:
        raise InputError(f'preprocessing {extractor.preprocessing} gives {given}, and these weights of resnet101 want '
                         f'{taken}, as '
                         f'by the preprocessing {wanted}; -i names others: resnet101.pth is of RGB, '
                         f'ResNet-101-model.npz of '
                         'BGR')


def _fitting(preprocessing, encoder):
    if preprocessing not in PREPROCESSINGS:
        raise InputError(f'unknown preprocessing {preprocessing!r}: it is one of {", ".join(PREPROCESSINGS)}')
    chosen, known = PREPROCESSINGS[preprocessing], described(encoder)
    size, encoders = chosen.size, chosen.encoders
    wanted = known.size
    if size is None:
        if known.name not in encoders:
            raise InputError(f'preprocessing {preprocessing} leaves images at their own size, which only '
                             f'{", ".join(encoders)} '
                             f'takes; {encoder} takes {wanted} x {wanted} pixels')
    elif size != wanted:
        raise InputError(f'preprocessing {preprocessing} gives {size} x {size} pixels, and {encoder} takes {wanted} x '
                         f'{wanted}')
    return preprocessing
