"""Captions made by any system, read from a file and matched to the images of a split.

`data.caption_parsers` reads the file, in any of its formats: what `generate` and `evaluate` write (JSON lines, JSON,
CSV, TSV, text, metadata.jsonl), the COCO results format (a JSON list of `{"image_id", "caption"}`), and others. Each
image has one row, of which the first caption counts; rows of a higher `rank` are not scored. Images are named by file
name or by `image_id`. In a JSON list `image_id` is the `cocoid` if the dataset has those, else the `imgid`; in other
files it is the `imgid`. If that does not name every image of the split and the other does, it is the other. Rows of
other splits' images are allowed: published results often cover more than is asked for.
"""
from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

import numpy as np

from chainer_caption.data.caption_parsers import Row, match_images, read_rows
from chainer_caption.data.tokenization import detokenize, split_text
from chainer_caption.errors import InputError

if TYPE_CHECKING:
    from chainer_caption.data.captions import Captions
    from chainer_caption.data.dataset import Dataset

Path = str | os.PathLike[str]
Say = Callable[[str], object]

# What evaluation servers and tokenizers remove from a word.
_PUNCTUATION = '.,;:!?"()'

_AMBIGUOUS = -1

# Words of a caption at most: the time that scoring takes grows with the square of their number.
_WORDS = 2000


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A caption to be scored."""
    tokens: list[str]                                   #: its words
    finished: bool | None = None                        #: whether it ended with `</S>`; None if that is not known
    familiarity: float | None = None                    #: of its image (`captioning.Result`); None if it is not known
    confidence: float | None = None                     #: that it is good, in the same way


def read_predictions(path: Path, dataset: Dataset, images: np.ndarray,
                     say: Say = lambda line: None) -> list[Prediction]:
    """Reads the captions of some images of a dataset, indices into `dataset.captions.filenames`, in their order.

    `say` takes a notice, one line. An `InputError` means that the file cannot be read; that a row has no caption, names
    an image that the dataset does not have, or an image that has had a row; or that an image has no row.
    """
    captions = dataset.captions
    is_list, read = read_rows(path, captions.filenames, say, empty=True)
    if not (rows := [row for row in read if row.rank == 1]):
        raise InputError(f'{path}: holds no captions')
    if unsound := next((row for row in rows if row.problem is not None), None):
        raise InputError(f'{unsound.where} {unsound.problem}')
    each = {}
    for row in rows:
        tokens = row.content.tokens[0]
        if tokens is None:
            tokens = split_text(row.content.captions[0], captions.tokenizer)
        if len(tokens) > _WORDS:
            raise InputError(f'{row.where}: a caption of {len(tokens):,} words; at most {_WORDS:,} are scored')
        each[row.where] = Prediction(tokens, row.finished)
    found = _match(rows, captions, images, is_list, path)
    if missing := [int(image) for image in images if image not in found]:
        raise InputError(f'{path}: {len(missing):,} of the {len(images):,} images have no caption, '
                         f'{captions.filenames[missing[0]]} (imgid {captions.image_ids[missing[0]]}) among them')
    if len(found) > len(images):
        say(f'{path}: {len(found) - len(images):,} captions are of images that are not evaluated and are not scored')
    predictions = [each[found[int(image)].where] for image in images]
    # Capitals and full stops cost matches where captions were not tokenized as the references were.
    known = set(captions.words)
    foreign = [token for prediction in predictions for token in prediction.tokens
               if token not in known and token.lower().strip(_PUNCTUATION) in known]
    if len(foreign) > len(predictions) // 10:
        say(f'{path}: {len(foreign):,} words have capitals or punctuation that the references do not, such as '
            f'{foreign[0]!r}; they are scored as they are. Tokenize them like the dataset')
    return predictions


def write_coco_results(f: TextIO, dataset: Dataset, images: np.ndarray, predictions: Iterable[Prediction]) -> None:
    """Writes captions in the COCO results format, `[{"image_id", "caption"}, ...]`, for the official server.

    `image_id` is the `cocoid`, or the `imgid` if not all of the `images` have one. These are indices into
    `dataset.captions.filenames`, with a prediction for each.
    """
    ids = dataset.captions.coco_ids[images]
    if (ids < 0).any():
        ids = dataset.captions.image_ids[images]
    json.dump([{'image_id': int(i), 'caption': detokenize(prediction.tokens, dataset.captions.tokenizer)}
               for i, prediction in zip(ids, predictions, strict=True)], f, ensure_ascii=False)
    f.write('\n')


def _match(rows: list[Row], captions: Captions, images: np.ndarray, is_list: bool, path: Path) -> dict[int, Row]:
    """The row of each image that has one, by indices into `captions.filenames`."""
    filenames = captions.filenames
    kind, by_id = _id_kind({row.image_id for row in rows}, captions, images,
                           ('cocoid', 'imgid') if is_list else ('imgid', 'cocoid'))
    by_name = _by_name(filenames)
    named = {row.name: by_name.get(row.name, by_name.get(os.path.basename(row.name)))
             for row in rows if row.name is not None and row.image_id is None}
    if unknown := [name for name, place in named.items() if place is None]:
        named |= {name: by_name[image] for name, image in match_images(unknown, filenames).items()}
    found: dict[int, Row] = {}
    for row in rows:
        name, where = row.name, row.where
        place = named[name] if row.image_id is None and name is not None else by_id.get(row.image_id)
        if place is None:
            raise InputError(f'{where}: the dataset has no image ' + (
                f'{name}' if row.image_id is None else f'with the {kind} {row.image_id}'))
        if place == _AMBIGUOUS:
            raise InputError(f'{where}: the dataset has several images {name}; name them by "image_id"')
        if row.image_id is not None and name is not None and not name.isdecimal() and \
                os.path.basename(name) != os.path.basename(filenames[place]):
            raise InputError(f'{where}: the {kind} {row.image_id} is {filenames[place]} in the dataset and not {name}; '
                             'these are captions of other images')
        if place in found:
            raise InputError(f'{where}: a second caption of {filenames[place]}, after '
                             f'{found[place].where.removeprefix(f"{path}: ")}; an image has one row')
        found[place] = row
    return found


def _id_kind(given: set[int | None], captions: Captions, images: np.ndarray,
             kinds: Sequence[str]) -> tuple[str, dict[int | None, int]]:
    """The first of the kinds of id by which those given name all images, else that the dataset has; indices by it."""
    ids = {'imgid': captions.image_ids, 'cocoid': captions.coco_ids}
    there = [kind for kind in kinds if (ids[kind] >= 0).any()]
    kind = next((kind for kind in there if given.issuperset(ids[kind][images].tolist())), there[0])
    return kind, {int(i): place for place, i in enumerate(ids[kind]) if i >= 0}


def _by_name(filenames: list[str]) -> dict[str, int]:
    """Indices by whole names and, if there is no such name, by the last part of a path."""
    places: dict[str, int] = {}
    for key in filenames, [os.path.basename(name) for name in filenames]:
        own: dict[str, int] = {}
        for place, name in enumerate(key):
            own[name] = _AMBIGUOUS if name in own else place
        places = {**own, **places}
    return places
