"""Finds images on the disk: in folders, and by the names that somebody else gave them."""
import collections
import os

from chainer_caption.errors import InputError

#: Suffixes (lower case) by which images are picked out of folders.
SUFFIXES = frozenset(('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.ppm',
                      '.pgm', '.pbm', '.pnm', '.jp2', '.avif'))


def find_images(paths):
    """Finds the images among files and in folders.

    Folders are walked recursively; in them a file is an image by its suffix (`SUFFIXES`, in any case), hidden files
    and folders are passed over, and each folder is walked once however many symbolic links lead to it. A path that
    is no folder is taken as it is, whatever its name, even when it is missing, and so is a folder that cannot be
    listed: `open_image` says what is wrong with them.

    Args:
        paths (iterable of str or os.PathLike, or one of them): Files and folders, mixed.

    Returns:
        list of str: Sorted by name, without duplicates.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found = set()
    for path in map(os.fspath, paths):
        found.update(_walk(path) if os.path.isdir(path) else [path])
    return sorted(found)


def _walk(top):
    # Real folders come before links to folders, so that an image is listed under its own place where it has one.
    real, links, walked = [top], [], set()
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
            if entry.name.startswith('.'):
                continue
            if os.path.isdir(entry.path):
                (links if entry.is_symlink() else real).append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield entry.path


def find_in_folder(wanted, folder):
    """Finds images in a folder, in whatever order and folders they lie there, by `find_by_name`.

    Args:
        wanted (iterable of str): File names.
        folder (str or os.PathLike): Where to look.

    Returns:
        dict: Wanted name to path; those not found are left out.

    Raises:
        InputError: There is no such folder.
    """
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise InputError(f'{folder}: no such folder')
    names = {os.path.relpath(path, folder): path for path in find_images(folder)}
    return {name: names[there] for name, there in find_by_name(wanted, names).items()}


def find_by_name(wanted, names):
    """Finds images by the names that somebody else gave them.

    Args:
        wanted (iterable of str): File names, with or without folders.
        names (iterable of str): The images that there are, as paths relative to their common folder.

    Returns:
        dict: Wanted name to the image's. A wanted name without the folders, or with more of them, finds its image,
        too, where there is no doubt: `1.jpg` is `cats/1.jpg` if that is the only one. Those not found are left out.
    """
    wanted = {name: os.path.normpath(name) for name in wanted}
    by_last = collections.defaultdict(dict)
    for name in names:
        by_last[os.path.basename(name)][os.path.normpath(name)] = name
    found, guessed = {}, {}
    for name, path in wanted.items():
        there = by_last.get(os.path.basename(path), {})
        alike = [path] if path in there else [other for other in there
                                              if path.endswith('/' + other) or other.endswith('/' + path)]
        if len(alike) == 1:
            (found if path in there else guessed)[name] = there[alike[0]]
    times = collections.Counter([*found.values(), *guessed.values()])
    return {**found, **{name: image for name, image in guessed.items() if times[image] == 1}}
