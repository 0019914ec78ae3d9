"""The best caption of each image in a file of its own beside it, its sidecar.

Each is written whole or not at all, and what is there is not made again; so a run that was stopped goes on with the
images that have none, and no journal is needed.
"""
import os

from chainer_caption.errors import InputError
from chainer_caption.features.folders import SUFFIXES, find_images
from chainer_caption.report.sidecars import XMP, sidecar
from chainer_caption.storage.files import atomic_write, escapes_root, remove_temporaries


class Sidecars:
    """Where the sidecars of images lie.

    Those of text take the place of the image's suffix, `photo.txt`; those of XMP stand behind it, `photo.jpg.xmp`, as
    darktable and digiKam look for them.

    Args:
        sources (iterable of str): Images and folders, as `find_images` takes them.
        suffix (str): Of the sidecars' names, with or without its dot.
        into (str or None): The folder that they are written to, each at its image's place within its source; None for
            beside the images.
        overwrite (bool): Whether those that are there are replaced.

    Attributes:
        missing (dict): The image, to the path of its sidecar, of those that have none or one to be replaced; in the
            order of the sources and sorted within them.
        kept (int): How many images have a sidecar that stays.

    Raises:
        InputError: Two images would share a sidecar, or one would take the place of an image; or a link leads out of
            the folder that was named; or what is to be replaced is no plain file.
    """

    def __init__(self, sources, suffix, into=None, overwrite=False):
        self._suffix, self._into, self._overwrite = suffix.removeprefix('.').lower(), into, overwrite
        if not self._suffix or os.sep in suffix or os.path.splitext(f'x.{self._suffix}')[1] in SUFFIXES:
            raise InputError(f'--sidecar {suffix}: is no suffix for a caption; take txt, xmp, or another')
        self.missing, self.kept = {}, 0
        owners = {}
        for source in sources:
            top = source if os.path.isdir(source) else os.path.dirname(source)
            for image in find_images(source):
                self._add(image, top, owners)
        for image in map(_identity, owners.values()):
            if image in owners:
                raise InputError(f'{owners[image]}: its sidecar would take the place of the image {image}')

    def _add(self, image, top, owners):
        path = image if self._into is None else os.path.join(self._into, os.path.relpath(image, top))
        path = f'{path if self._suffix == XMP else os.path.splitext(path)[0]}.{self._suffix}'
        identity, root = _identity(path), top if self._into is None else self._into
        if escapes_root(os.path.dirname(path), root):
            raise InputError(f'{path}: a link leads out of {root}; name the folder that it leads to, or write the '
                             'sidecars elsewhere with --output-dir')
        if identity in owners:
            other = owners[identity]
            if _identity(other) != _identity(image):
                raise InputError(f'{other} and {image} would share the sidecar {path}; rename one of them, or '
                                 'caption each into a folder of its own with --output-dir')
            return                                      # an image that was named twice
        owners[identity] = image
        if os.path.lexists(path) and not self._overwrite:
            self.kept += 1
        elif os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
            raise InputError(f'{path}: is no plain file and is not replaced; move it out of the way')
        else:
            self.missing[image] = path

    def prepare(self):
        """Makes the folders, and removes what a run that was killed has left in them."""
        for folder in {os.path.dirname(path) for path in self.missing.values()}:
            os.makedirs(folder or os.curdir, exist_ok=True)
            remove_temporaries(folder or os.curdir)

    def write(self, result):
        """Writes the sidecar of an image that has captions.

        A sidecar that somebody else has written meanwhile stays as well.
        """
        path = self.missing[result.path]
        if self._overwrite or not os.path.lexists(path):
            with atomic_write(path, 'w', tidy=False) as f:
                f.write(sidecar(self._suffix, result.captions[0].text))


def _identity(path):
    """What a name in a folder is, by whatever links its folder is reached; it may be a link itself."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)
