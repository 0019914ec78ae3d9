"""The fine-tuned image encoder of a model, in a file beside the model's weights.

A process may be killed between writing the two files. So the weights hold a digest of the encoder that they belong to,
and are replaced last: the folder then has the old pair or the new one."""
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from chainer_caption.errors import InputError
from chainer_caption.storage.archives import read_npz
from chainer_caption.storage.files import sample_digest, sync_folder, write_npz
from chainer_caption.storage.legacy import ENCODER_FILES, current_array_names

#: The encoder's file, the one that is about to replace it, and in the weights the digest of the encoder they belong to.
ENCODER, NEXT, DIGEST = 'encoder.npz', 'encoder-next.npz', 'encoder'


def write_pair(weights: pathlib.Path, arrays: Mapping[str, Any], encoder: Mapping[str, Any]) -> None:
    """Writes the arrays of a model to the path `weights`, and those of its encoder beside it."""
    following = weights.with_name(NEXT)
    write_npz(following, encoder)
    write_npz(weights, {**arrays, DIGEST: np.frombuffer(bytes.fromhex(sample_digest(following)), np.uint8)})
    os.replace(following, weights.with_name(ENCODER))
    sync_folder(weights.parent)


def find(weights: pathlib.Path, digest: np.ndarray | None = None) -> pathlib.Path | None:
    """The path of the image encoder beside the path of a model's weights; None where the model has none. InputError
    where no encoder there has the digest, which is in these weights."""
    there = [path for path in map(weights.with_name, (ENCODER, NEXT, *ENCODER_FILES)) if path.exists()]
    if digest is None:
        return there[0] if there else None
    for path in there:
        if sample_digest(path) == digest.tobytes().hex():
            return path
    raise InputError(f'{weights.with_name(ENCODER)}: not the encoder that {weights.name} was trained with; put both '
                     'back from the same copy of the folder')


def recover(weights: pathlib.Path) -> pathlib.Path | None:
    """As `find`, and completes a replacement that was interrupted. No other process may write the folder."""
    digest = current_array_names(read_npz(weights)).get(DIGEST) if weights.exists() else None
    path, encoder = find(weights, digest), weights.with_name(ENCODER)
    if path not in (None, encoder):
        os.replace(path, encoder)
    weights.with_name(NEXT).unlink(missing_ok=True)
    return path and encoder
