"""Trained models of other programs, as model directories: a module for each format, with its names for the arrays.
Nothing in such a file is executed."""
from collections.abc import Sequence

from chainer_caption.errors import InputError
from chainer_caption.models.bundle import Bundle
from chainer_caption.models.checkpoints import chainer_image_caption, image_captioning_pytorch, neuraltalk
from chainer_caption.storage.files import open_regular, unreadable
from chainer_caption.storage.torch_files import is_torch_file

#: The formats: each has `NAME`, `FILES`, the kinds of its files, `DESCRIPTION` of these, and `read(*paths)`, which
#: takes the files in the order of `FILES` and gives a Bundle.
FORMATS = chainer_image_caption, neuraltalk, image_captioning_pytorch


def read_checkpoint(paths: Sequence[str], provenance: dict[str, str] | None = None) -> Bundle:
    """A trained model of another program, of its files, in any order, and the provenance of the features that it was
    trained on; None for the default of its program. The counts of its words are unknown, and are 0.

    Raises:
        InputError: The files are of no format that is known, damaged, or do not belong together.
    """
    kinds = [_kind(path) for path in paths]
    for known in FORMATS:
        if sorted(known.FILES) == sorted(kinds):
            bundle = known.read(*(paths[kinds.index(kind)] for kind in known.FILES))
            bundle.provenance = provenance or bundle.provenance
            bundle.training = {'imported_from': known.NAME}
            return bundle
    raise InputError(f'{", ".join(map(str, paths))}: not a known checkpoint; known are '
                     + '; '.join(f'{known.DESCRIPTION} of {known.NAME}' for known in FORMATS))


def _kind(path: str) -> str:
    try:
        with open_regular(path) as f:
            head = f.read(16)
    except OSError as e:
        raise unreadable(path, e) from e
    return 'hdf5' if head.startswith(b'\x89HDF') else 'torch' if is_torch_file(head) else 'pickle'
