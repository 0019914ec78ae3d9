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

# What evaluation servers and tokenizers remove from a word.
_PUNCTUATION = '.,;:!?"()'

_AMBIGUOUS = -1

# Words of a caption at most: the time that scoring takes grows with the square of their number.
_WORDS = 2000


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A caption to be scored.

    Attributes:
        tokens: Its words.
        finished: Whether it ended with `</S>`; None if that is not known.
    """
    tokens: list[str]
    finished: bool | None = None


def read_predictions(path: str | os.PathLike[str], dataset: Dataset, images: np.ndarray,
                     say: Callable[[str], object] = lambda line: None) -> list[Prediction]:
    """Reads the captions of some images of a dataset.

    Args:
        path: The file.
        dataset: The dataset.
        images: The images, as indices into `dataset.captions.filenames`.
        say: Takes a notice, one line.

    Returns:
        One for each of the images, in their order.

    Raises:
        InputError: The file cannot be read; a row has no caption, names an image that the dataset does not have, or
            an image that has had a row; or an image has no row.
    """
    captions = dataset.captions
    is_list, read = read_rows(path, captions.filenames, say, empty=True)
    rows = [row for row in read if row.rank == 1]
    if not rows:
        raise InputError(f'{path}: holds no captions')
    for row in rows:
        if row.problem is not None:
            raise InputError(f'{row.where} {row.problem}')
    each = {row.where: _prediction(row, captions.tokenizer) for row in rows}
    found = _match(rows, captions, images, is_list, path)
    missing = [int(image) for image in images if image not in found]
    if missing:
        raise InputError(f'{path}: {len(missing):,} of the {len(images):,} images have no caption, '
                         f'{captions.filenames[missing[0]]} (imgid {captions.image_ids[missing[0]]}) among them')
    if len(found) > len(images):
        say(f'{path}: {len(found) - len(images):,} captions are of images that are not evaluated and are not scored')
    predictions = [each[found[int(image)].where] for image in images]
    _notice_foreign_tokens(path, predictions, captions.words, say)
    return predictions


def write_coco_results(f: TextIO, dataset: Dataset, images: np.ndarray, predictions: Iterable[Prediction]) -> None:
    """Writes captions in the COCO results format, `[{"image_id", "caption"}, ...]`, for the official server.

    `image_id` is the `cocoid`, or the `imgid` if not all of the images have one.

    Args:
        f: The open file.
        dataset: The dataset.
        images: The images, as indices into `dataset.captions.filenames`.
        predictions: A caption for each.
    """
    ids = dataset.captions.coco_ids[images]
    if (ids < 0).any():
        ids = dataset.captions.image_ids[images]
    json.dump([{'image_id': int(i), 'caption': detokenize(prediction.tokens, dataset.captions.tokenizer)}
               for i, prediction in zip(ids, predictions, strict=True)], f, ensure_ascii=False)
    f.write('\n')


def _prediction(row: Row, tokenizer: str) -> Prediction:
    tokens = row.content.tokens[0]
    if tokens is None:
        tokens = split_text(row.content.captions[0], tokenizer)
    if len(tokens) > _WORDS:
        raise InputError(f'{row.where}: a caption of {len(tokens):,} words; at most {_WORDS:,} are scored')
    return Prediction(tokens, row.finished)


def _match(rows: list[Row], captions: Captions, images: np.ndarray, is_list: bool,
           path: str | os.PathLike[str]) -> dict[int, Row]:
    """The row of each image that has one, by indices into `captions.filenames`."""
    filenames = captions.filenames
    kind, by_id = _id_kind({row.image_id for row in rows}, captions, images,
                           ('cocoid', 'imgid') if is_list else ('imgid', 'cocoid'))
    by_name = _by_name(filenames)
    unknown = [row.name for row in rows if row.name is not None and row.image_id is None
               and by_name.get(row.name, by_name.get(os.path.basename(row.name))) is None]
    alike = match_images(unknown, filenames) if unknown else {}
    found: dict[int, Row] = {}
    for row in rows:
        place = _place(row, kind, by_id, by_name, alike, filenames)
        if place in found:
            raise InputError(f'{row.where}: a second caption of {filenames[place]}, after '
                             f'{found[place].where.removeprefix(f"{path}: ")}; an image has one row')
        found[place] = row
    return found


def _id_kind(given: set[int | None], captions: Captions, images: np.ndarray,
             kinds: Sequence[str]) -> tuple[str, dict[int, int]]:
    """Which of the kinds of id those given are, and the indices of images by it.

    That is the first kind by which they name all of the images, or else the first that the dataset has at all.
    """
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


def _place(row: Row, kind: str, by_id: dict[int, int], by_name: dict[str, int], alike: dict[str, str],
           filenames: list[str]) -> int:
    name = row.name if row.name is not None and not (row.name.isdecimal() and row.image_id is not None) else None
    if row.image_id is None:
        assert name is not None
        place = by_name.get(name, by_name.get(os.path.basename(name), by_name.get(alike.get(name, ''))))
        if place is None:
            raise InputError(f'{row.where}: the dataset has no image {name}')
        if place == _AMBIGUOUS:
            raise InputError(f'{row.where}: the dataset has several images {name}; name them by "image_id"')
        return place
    place = by_id.get(row.image_id)
    if place is None:
        raise InputError(f'{row.where}: the dataset has no image with the {kind} {row.image_id}')
    if name is not None and os.path.basename(name) != os.path.basename(filenames[place]):
        raise InputError(f'{row.where}: the {kind} {row.image_id} is {filenames[place]} in the dataset and not '
                         f'{name}; these are captions of other images')
    return place


def _notice_foreign_tokens(path: str | os.PathLike[str], predictions: list[Prediction], words: Iterable[str],
                           say: Callable[[str], object]) -> None:
    """Gives a notice if captions were not tokenized as the references were: capitals and full stops cost matches."""
    known = set(words)
    foreign = [token for prediction in predictions for token in prediction.tokens
               if token not in known and token.lower().strip(_PUNCTUATION) in known]
    if len(foreign) > len(predictions) // 10:
        say(f'{path}: {len(foreign):,} words have capitals or punctuation that the references do not, such as '
            f'{foreign[0]!r}; they are scored as they are. Tokenize them like the dataset')
