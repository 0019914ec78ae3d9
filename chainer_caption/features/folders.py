"""Finds images on the disk: in folders, and by the names that caption files give them."""
from __future__ import annotations

import collections
import importlib.util
import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator

from chainer_caption.errors import InputError
from chainer_caption.storage.files import Path

_HEIF = {'.heic', '.heif', '.hif'}      # suffixes of images that only pillow-heif decodes

#: Suffixes (lower case) by which images are picked out of folders.
SUFFIXES = frozenset(_HEIF | {'.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff',
                              '.ppm', '.pgm', '.pbm', '.pnm', '.jp2', '.avif'})
# Suffixes of images that are not read; a notice counts them.
_UNREAD = {'.dng', '.cr2', '.cr3', '.nef', '.arw', '.orf', '.rw2', '.raf', '.pef', '.srw', '.psd', '.xcf', '.jxl',
           '.jxr', '.tga', '.exr'}
# Folders (lower case) that file servers, recycle bins and archivers fill with copies. Hidden ones are skipped anyway.
_SKIPPED = {'@eadir', '#recycle', '@recycle', '#snapshot', '$recycle.bin', '__macosx', 'system volume information'}


def find_images(paths: Path | Iterable[Path]) -> list[str]:
    """Finds the images among files and in folders, sorted by name, without duplicates.

    Folders are walked recursively, each once, however many symbolic links lead to it. In them a file is an image by its
    suffix (`SUFFIXES`, in any case; HEIF only with pillow-heif). Hidden files and folders, and those of thumbnails and
    recycle bins, are skipped. A path that is no folder, even a missing one, is taken as it is, and so is a folder that
    cannot be listed: `open_image` gives the reason. Images of types that are not read are counted in one warning to the
    logger `chainer_caption`."""
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    unread: collections.Counter[str] = collections.Counter()
    found = _find((os.fspath(path) for path in paths), unread)
    if unread:
        heif, others = sorted(unread.keys() & _HEIF), sorted(unread.keys() - _HEIF)
        kinds = [f'{", ".join(heif)}: scripts/setup.sh heif'] * bool(heif) + [', '.join(others)] * bool(others)
        what = 'files of types not read here were' if unread.total() > 1 else 'file of a type not read here was'
        logging.getLogger('chainer_caption').warning('%d %s skipped (%s)', unread.total(), what, '; '.join(kinds))
    return found


def _find(paths: Iterable[str], unread: collections.Counter[str]) -> list[str]:
    return sorted({image for path in paths for image in (_walk(path, unread) if os.path.isdir(path) else [path])})


def _walk(top: str, unread: collections.Counter[str]) -> Iterator[str]:
    read = SUFFIXES if importlib.util.find_spec('pillow_heif') else SUFFIXES - _HEIF
    # Real folders come before links to folders, so that an image is listed under its own place where it has one.
    real, links, walked = [top], list[str](), set()
    while real or links:
        folder = real.pop() if real else links.pop(0)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in walked:
                continue
            walked.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            yield folder
            continue
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith('.') or entry.name.lower() in _SKIPPED:
                continue
            if os.path.isdir(entry.path):
                (links if entry.is_symlink() else real).append(entry.path)
            elif suffix in read:
                yield entry.path
            elif suffix in _HEIF or suffix in _UNREAD:
                unread[suffix] += 1


def find_in_folder(wanted: Iterable[str], folder: Path) -> dict[str, str]:
    """Finds images of a folder by `find_by_name`: wanted name to path, for those found; InputError without a folder."""
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise InputError(f'{folder}: no such folder')
    paths = {os.path.relpath(path, folder): path for path in _find([folder], collections.Counter())}
    return {name: paths[image] for name, image in find_by_name(wanted, paths).items()}


def find_by_name(wanted: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Finds images by the names that a caption file gives them: wanted name to the image's, for those found.

    A wanted name is that of an image, or differs from it in ways that leave no doubt which image is meant: upper and
    lower case, composed or decomposed Unicode, backslashes for slashes, no suffix, fewer folders or more of them
    (`1.jpg` is `cats/1.jpg` if that is the only one). Where several wanted names could only be guesses at one image,
    none of them is found. `names` are the images that there are, as paths relative to their common folder."""
    exact = {os.path.normpath(name): name for name in names}
    by_last: dict[str, dict[str, list[str]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for name in exact.values():
        path = _simplified(name)
        stem = os.path.splitext(path)[0]
        for key in (path,) if os.path.splitext(stem)[1] in SUFFIXES else (path, stem):
            by_last[os.path.basename(key)][key].append(name)
    found, guessed = {}, {}
    for name in wanted:
        if image := exact.get(os.path.normpath(name)):
            found[name] = image
            continue
        path = _simplified(name)
        others = by_last.get(os.path.basename(path), {})
        alike = others.get(path) or [image for other, images in others.items() for image in images
                                     if path.endswith('/' + other) or other.endswith('/' + path)]
        if len(alike) == 1:
            guessed[name] = alike[0]
    times = collections.Counter([*found.values(), *guessed.values()])
    return {**found, **{name: image for name, image in guessed.items() if times[image] == 1}}


def _simplified(name: str) -> str:
    return os.path.normpath(unicodedata.normalize('NFC', name).replace('\\', '/')).casefold()
