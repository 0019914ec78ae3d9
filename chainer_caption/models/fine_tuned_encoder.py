"""The image encoder of a model that has one of its own, because the two have learned together.

They are two files, and a kill may come between them. So the weights say which encoder they belong to, and change last:
what is found then is the old pair or the new one.
"""
import os

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import sample_digest, sync_folder, write_npz
from chainer_caption.storage.legacy import ENCODER_FILES, current_array_names

#: The encoder's file, beside the weights, and one on its way.
ENCODER, NEXT = 'encoder.npz', 'encoder-next.npz'

#: In the weights: the digest of the encoder that they belong to.
DIGEST = 'encoder'


def write_pair(weights, arrays, encoder):
    """Writes the weights of a model and its encoder.

    Args:
        weights (pathlib.Path): Where to; the encoder's file comes beside it.
        arrays (dict): The model's arrays by name.
        encoder (dict): The encoder's.
    """
    following = weights.with_name(NEXT)
    write_npz(following, encoder)
    write_npz(weights, {**arrays, DIGEST: np.frombuffer(bytes.fromhex(sample_digest(following)), np.uint8)})
    os.replace(following, weights.with_name(ENCODER))
    sync_folder(weights.parent)


def find(weights, digest=None):
    """Where the image encoder of a model directory is.

    Args:
        weights (pathlib.Path): The model's weights.
        digest (numpy.ndarray or None): What its weights say of the encoder that they belong to, if there are some.

    Returns:
        pathlib.Path or None: None where the model has no encoder of its own.

    Raises:
        InputError: It has none that belongs to the weights.
    """
    there = [path for path in map(weights.with_name, (ENCODER, NEXT, *ENCODER_FILES)) if path.exists()]
    if digest is None:
        return there[0] if there else None
    for path in there:
        if sample_digest(path) == digest.tobytes().hex():
            return path
    raise InputError(f'{weights.with_name(ENCODER)}: not the encoder that {weights.name} was trained with; put both '
                     'back from the same copy of the folder')


def recover(weights):
    """As `find`, in a folder that nobody else writes: what a kill has left between two files is put right."""
    digest = current_array_names(read_npz(weights)).get(DIGEST) if weights.exists() else None
    path, encoder, following = find(weights, digest), weights.with_name(ENCODER), weights.with_name(NEXT)
    if path not in (None, encoder):
        os.replace(path, encoder)
    following.unlink(missing_ok=True)
    return path and encoder
