"""The image network of a model that has one of its own, because the two have learned together.

They are two files, and a kill may come between them. So the weights say which network they belong to, and change last:
what is found then is the old pair or the new one.
"""
import os

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import sample_digest, sync_folder, write_npz

#: The network's file, beside the weights, and one on its way.
NETWORK, NEXT = 'network.npz', 'network-next.npz'

#: In the weights: the digest of the network that they belong to.
DIGEST = 'network'


def write_pair(weights, arrays, network):
    """Writes the weights of a model and its network.

    Args:
        weights (pathlib.Path): Where to; the network's file comes beside it.
        arrays (dict): The model's arrays by name.
        network (dict): The network's.
    """
    following = weights.with_name(NEXT)
    write_npz(following, network)
    write_npz(weights, {**arrays, DIGEST: np.frombuffer(bytes.fromhex(sample_digest(following)), np.uint8)})
    os.replace(following, weights.with_name(NETWORK))
    sync_folder(weights.parent)


def find(weights, digest=None):
    """Where the image network of a model directory is.

    Args:
        weights (pathlib.Path): The model's weights.
        digest (numpy.ndarray or None): What its weights say of the network that they belong to, if there are some.

    Returns:
        pathlib.Path or None: None where the model has no network of its own.

    Raises:
        InputError: It has none that belongs to the weights.
    """
    there = [path for path in (weights.with_name(NETWORK), weights.with_name(NEXT)) if path.exists()]
    if digest is None:
        return there[0] if there else None
    for path in there:
        if sample_digest(path) == digest.tobytes().hex():
            return path
    raise InputError(f'{weights.with_name(NETWORK)}: not the network that {weights.name} was trained with; put both '
                     'back from the same copy of the folder')


def settle(weights):
    """As `find`, in a folder that nobody else writes: what a kill has left between two files is put right."""
    digest = read_npz(weights, DIGEST).get(DIGEST) if weights.exists() else None
    path, network, following = find(weights, digest), weights.with_name(NETWORK), weights.with_name(NEXT)
    if path == following:
        os.replace(following, network)
    following.unlink(missing_ok=True)
    return path and network
