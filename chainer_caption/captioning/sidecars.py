"""The best caption of each image in a small file of its own beside it, its sidecar.

Each is written whole or not at all, and existing ones are kept. So a run that was stopped continues with the images
that have none, and needs no journal."""
import os
from collections.abc import Iterable

from chainer_caption.captioning.results import Result
from chainer_caption.errors import InputError
from chainer_caption.features.folders import SUFFIXES, find_images
from chainer_caption.report.sidecars import XMP, sidecar
from chainer_caption.storage.files import atomic_write, escapes_root, remove_temporaries


class Sidecars:
    """Where the sidecars of images lie.

    Text replaces the image's suffix, `photo.txt`; where two images of a folder differ in their suffix only, the second
    one's follows it, `photo.png.txt`. XMP always follows it, `photo.jpg.xmp`, as darktable and digiKam expect.

    Args:
        sources, suffix: Images and folders, as `find_images` takes them; of the sidecars, with or without its dot.
        output_dir: The folder to write them to, in the images' subfolders; None for beside the images.
        overwrite: Whether existing ones are replaced.

    Attributes:
        missing: The images that need a sidecar, with its path; in the order of the sources and sorted within them.
        kept: How many images have a sidecar that stays.
        renamed: The sidecars that follow the suffix of their image because another image has the shorter name.

    Raises InputError: two images would share a sidecar, or one would replace an image; a link leads out of the folder;
    or what would be replaced is no plain file."""

    def __init__(self, sources: Iterable[str], suffix: str, output_dir: str | None = None, overwrite: bool = False):
        self._suffix, self._output_dir, self._overwrite = suffix.removeprefix('.').lower(), output_dir, overwrite
        if not self._suffix or os.sep in suffix or os.path.splitext(f'x.{self._suffix}')[1] in SUFFIXES:
            raise InputError.of('sidecar', suffix, 'not a suffix for captions; take txt, xmp, or another')
        self.missing: dict[str, str] = {}
        self.kept, self.renamed = 0, list[str]()
        owners: dict[str, str] = {}
        for source in sources:
            top = source if os.path.isdir(source) else os.path.dirname(source)
            for image in find_images(source):
                self._add(image, top, owners)
        for image in map(_identity, owners.values()):
            if image in owners:
                raise InputError(f'{owners[image]}: its sidecar would take the place of the image {image}')

    def _add(self, image: str, top: str, owners: dict[str, str]) -> None:
        whole = image if self._output_dir is None else os.path.join(self._output_dir, os.path.relpath(image, top))
        path = f'{whole if self._suffix == XMP else os.path.splitext(whole)[0]}.{self._suffix}'
        other = owners.get(_identity(path))
        if other is not None and _identity(other) != _identity(image) \
                and os.path.basename(other) != os.path.basename(image) and self._suffix != XMP:
            path = f'{whole}.{self._suffix}'
            other = owners.get(_identity(path))
            if other is None:
                self.renamed.append(path)
        root = top if self._output_dir is None else self._output_dir
        if escapes_root(os.path.dirname(path), root):
            raise InputError(f'{path}: a link leads out of {root}; name the folder that it leads to, or write the '
                             'sidecars elsewhere with --output-dir')
        if other is not None:
            if _identity(other) != _identity(image):
                raise InputError(f'{other} and {image} would share the sidecar {path}; rename one of them, or '
                                 'caption each into a folder of its own with --output-dir')
            return                                      # an image that was named twice
        owners[_identity(path)] = image
        if os.path.lexists(path) and not self._overwrite:
            self.kept += 1
        elif os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
            raise InputError(f'{path}: not a plain file, which is never replaced; move it elsewhere')
        else:
            self.missing[image] = path

    def prepare(self, images: Iterable[str]) -> None:
        """Makes the folders of these images' sidecars, and removes temporary files that a killed run has left there.

        Raises InputError: none of the folders can be written to."""
        folders, errors = {os.path.dirname(self.missing[image]) or os.curdir for image in images}, []
        for folder in folders:
            try:
                os.makedirs(folder, exist_ok=True)
                if not os.access(folder, os.W_OK):
                    errors.append(f'{folder}: cannot be written to')
            except OSError as e:
                errors.append(f'{folder}: cannot be made ({e.strerror})')
            remove_temporaries(folder)
        if errors and len(errors) == len(folders):
            raise InputError(errors[0])

    def write(self, result: Result) -> None:
        """Writes the sidecar of an image that has captions, unless another program has written one meanwhile."""
        assert result.path is not None
        path = self.missing[result.path]
        if self._overwrite or not os.path.lexists(path):
            with atomic_write(path, 'w', tidy=False) as f:
                f.write(sidecar(self._suffix, result.captions[0].text))


def _identity(path: str) -> str:
    """A path without links in its folder; the file itself may be a link."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)
