"""Pictures in, features out: a network with its weights and the profile that belongs to them."""
import copy

import chainer
import numpy as np
from chainer.backends import cuda

from chainer_caption.errors import InputError
from chainer_caption.features.memory import return_large_blocks
from chainer_caption.features.networks import described, is_of
from chainer_caption.features.pictures import MAX_PIXELS, open_picture
from chainer_caption.features.profiles import PROFILES
from chainer_caption.features.slices import InSlices
from chainer_caption.features.weights import find_weights, load_weights
from chainer_caption.functions.memory import enough_memory
from chainer_caption.storage.files import sample_digest


class Extractor:
    """Turns pictures into features, in two steps so that they can overlap.

    `prepare` reads one picture and may run in several threads; calling the extractor runs the network on a batch::

        extractor = Extractor.load('vgg19', weights='VGG_ILSVRC_19_layers.caffemodel')
        features = extractor([extractor.prepare(path) for path in paths])

    Attributes:
        network (str): Name of the network.
        profile (str): Name of the profile that pictures are prepared by.
        dim (int): Dimension D of the features.
        device (chainer.backend.Device): Where the network runs.
        identity (dict): What the features depend on, as JSON values: network, profile, a digest of the weights' file
            (None if there was none), whether EXIF is honoured, the limit of pixels, and whose arithmetic.
    """

    def __init__(self, network, profile, link, honour_exif=True, max_pixels=MAX_PIXELS):
        self.network = network
        self.profile = _fitting(profile, network)
        self.dim = described(network).dim
        self.device = link.device
        self._compute = self._best_way(link)
        self._honour_exif = honour_exif
        self._max_pixels = max_pixels
        self._weights = None

    def _best_way(self, link):
        # Chainer's own convolutions are made for training and for cuDNN; a network may know better for inference.
        if isinstance(self.device, chainer.backend.CpuDevice) and hasattr(link, 'inference'):
            return link.inference()
        if self.device.xp is cuda.cupy:
            return InSlices(lambda x: link(x).array, self.device)
        return lambda x: link(self.device.send(x)).array

    @classmethod
    def load(cls, network='vgg19', profile=None, weights=None, device='@numpy', honour_exif=True,
             max_pixels=MAX_PIXELS):
        """Makes an extractor from weights on the disk.

        Args:
            network (str): One of `NETWORKS`, or one that was fine-tuned from it.
            profile (str): One of `PROFILES`. By default the one that the weights want (`torchvision` for VGG's
                from there), or else the network's (`karpathy` for VGG).
            weights (str or os.PathLike): A file that `load_weights` takes; see `find_weights` for the default.
            device (str or chainer.backend.Device): As `chainer.get_device` takes it.
            honour_exif (bool): Turn pictures as their EXIF orientation says.
            max_pixels (int): Refuse pictures of more.

        Raises:
            InputError: Unknown network or profile, a profile of another size than the network's, or weights that
                are missing, damaged or another network's, or want their pictures otherwise.
        """
        return_large_blocks()
        link, digest, wanted = load_network(network, weights)
        with enough_memory(chainer.get_device(device)):
            link.to_device(device)
        extractor = cls(network, profile or wanted, link, honour_exif, max_pixels)
        _check_colours(extractor, wanted)
        extractor._weights = digest
        return extractor

    @property
    def identity(self):
        return {'network': self.network, 'profile': self.profile, 'weights': self._weights,
                'EXIF': self._honour_exif, 'max-pixels': self._max_pixels, 'device': self.device.xp.__name__}

    def with_profile(self, profile):
        """The same network, its weights shared, with pictures prepared by another profile.

        Raises:
            InputError: No such profile, or one of another size than the network's.
        """
        sibling = copy.copy(self)
        sibling.profile = _fitting(profile, self.network)
        return sibling

    def prepare(self, path):
        """Reads and prepares one picture.

        Args:
            path (str, os.PathLike or binary file): The picture.

        Returns:
            numpy.ndarray: Shape (3, S, S), float32; (3, H, W) by a profile without a size.

        Raises:
            PictureError: As `open_picture`, or it is too small.
        """
        return prepare(path, PROFILES[self.profile], self._honour_exif, self._max_pixels)

    def __call__(self, pictures):
        """Computes the features of prepared pictures; those of a profile without a size one by one.

        Args:
            pictures (numpy.ndarray or list of numpy.ndarray): N pictures as `prepare` gives them, one at least.

        Returns:
            numpy.ndarray or cupy.ndarray: Shape (N, D), float32, on the extractor's device.

        Raises:
            InputError: On a GPU there is no room for a single picture. Where there is none for all of them at once,
                they are computed one after another.
        """
        # Features are those of float32, whatever they are captioned with.
        with chainer.using_device(self.device), chainer.using_config('train', False), chainer.no_backprop_mode(), \
                chainer.using_config('precision', 'float32'):
            if PROFILES[self.profile].size is not None:
                return self._compute(np.asarray(pictures, np.float32))
            return self.device.xp.concatenate([self._compute(picture[None]) for picture in pictures])


def load_network(network, weights=None):
    """Loads a network on the CPU.

    Args:
        network (str): Its name, as for `Extractor.load`.
        weights (str or os.PathLike or None): Its file, as for `Extractor.load`.

    Returns:
        tuple: The link; `sample_digest` of the file; and the name of the profile that such weights want.

    Raises:
        InputError: As `Extractor.load`.
    """
    known = described(network)
    path = find_weights(known, weights)
    digest = sample_digest(path)
    if not is_of(network, digest):
        raise InputError(f'{path}: not the weights of the network {network}; name the network.npz of the model that it '
                         'was fine-tuned with, with -i')
    link = known.link()
    return link, digest, load_weights(link, path) or known.profile


def prepare(path, profile, honour_exif=True, max_pixels=MAX_PIXELS):
    """Reads a picture and prepares it for a network; arguments as for `open_picture`, and a Profile.

    Returns:
        numpy.ndarray: As of `Profile.prepare`.

    Raises:
        PictureError: As `open_picture`, and as `Profile.prepare`.
    """
    with open_picture(path, honour_exif, max_pixels, profile.least) as picture:
        return profile.prepare(picture)


def _check_colours(extractor, wanted):
    # The one network with weights of both kinds; of those that have no other, everybody knows what they want.
    taken, given = PROFILES[wanted].channels, PROFILES[extractor.profile].channels
    if extractor.network == 'resnet101' and taken != given:
        raise InputError(f'profile {extractor.profile} gives {given}, and these weights of resnet101 want {taken}, as '
                         f'by the profile {wanted}; -i names others: resnet101.pth is of RGB, ResNet-101-model.npz of '
                         'BGR')


def _fitting(profile, network):
    if profile not in PROFILES:
        raise InputError(f'unknown profile {profile!r}: it is one of {", ".join(PROFILES)}')
    size, networks, known = PROFILES[profile].size, PROFILES[profile].networks, described(network)
    wanted = known.size
    if size is None:
        if known.name not in networks:
            raise InputError(f'profile {profile} leaves pictures at their own size, which only {", ".join(networks)} '
                             f'takes; {network} takes {wanted} x {wanted} pixels')
    elif size != wanted:
        raise InputError(f'profile {profile} gives {size} x {size} pixels, and {network} takes {wanted} x {wanted}')
    return profile
