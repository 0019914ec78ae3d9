"""Captions made by any system, read from a file and matched to the images of a split.

Three layouts are told apart by what they hold. In each, an image has one row:

- our JSON lines, `{"filename", "image_id"?, "captions": [{"caption", "tokens"?, "finished"?}, ...]}`, of which the
  first caption counts; or `{"filename" or "image_id", "caption"}`;
- a JSON list of such rows;
- the COCO results format, a JSON list of `{"image_id", "caption"}`.

In JSON lines `image_id` is the `imgid` of an image, in a list its `cocoid` where the dataset has those; should that
not name every image of the split and the other do so, it is the other. Rows of other splits' images are allowed:
published results often cover more than is asked for.
"""
import dataclasses
import io
import json
import os

from chainer_caption.data.tokenization import detokenize, split_text
from chainer_caption.errors import InputError
from chainer_caption.storage.files import decode_json, parse_json, unreadable

# What an evaluation server or a tokeniser would have taken off a word.
_PUNCTUATION = '.,;:!?"()'

_AMBIGUOUS = -1

# Bytes of a file, and words of a caption, at most: the time that scoring takes grows with the square of the words.
_LARGEST, _WORDS = 2 ** 30, 2000


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A caption to be scored.

    Attributes:
        tokens (list of str): Its words.
        finished (bool or None): Whether it came to its end; None where that is not known.
    """
    tokens: list
    finished: bool | None = None


@dataclasses.dataclass(frozen=True)
class _Row:
    where: str
    image_id: int | None
    filename: str | None
    prediction: Prediction


def read_predictions(path, dataset, images, say=lambda line: None):
    """Reads the captions of some images of a dataset.

    Args:
        path (str or os.PathLike): The file.
        dataset (Dataset): The dataset.
        images (numpy.ndarray): The images, as places in `dataset.captions.filenames`.
        say (callable): Takes a notice, one line.

    Returns:
        list of Prediction: One for each of the images, in their order.

    Raises:
        InputError: The file cannot be read; a row has no caption, names an image that the dataset does not have, or
            an image that has had a row; or an image has no row.
    """
    rows, is_list = _read_rows(path, dataset.captions.tokenizer)
    found = _match(rows, dataset, images, is_list, path)
    captions = dataset.captions
    missing = [int(image) for image in images if image not in found]
    if missing:
        raise InputError(f'{path}: {len(missing):,} of the {len(images):,} images have no caption, '
                         f'{captions.filenames[missing[0]]} (imgid {captions.image_ids[missing[0]]}) among them')
    if len(found) > len(images):
        say(f'{path}: {len(found) - len(images):,} captions are of images outside the split and are not scored')
    predictions = [found[int(image)].prediction for image in images]
    _notice_foreign_tokens(path, predictions, captions.words, say)
    return predictions


def write_coco_results(f, dataset, images, predictions):
    """Writes captions in the COCO results format, `[{"image_id", "caption"}, ...]`, for the official server.

    `image_id` is the `cocoid`, or the `imgid` where not all of the images have one.

    Args:
        f (text file): Where to write.
        dataset (Dataset): The dataset.
        images (numpy.ndarray): The images, as places in `dataset.captions.filenames`.
        predictions (list of Prediction): A caption for each.
    """
    ids = dataset.captions.coco_ids[images]
    if (ids < 0).any():
        ids = dataset.captions.image_ids[images]
    json.dump([{'image_id': int(i), 'caption': detokenize(prediction.tokens, dataset.captions.tokenizer)}
               for i, prediction in zip(ids, predictions, strict=True)], f, ensure_ascii=False)
    f.write('\n')


def _read_rows(path, tokenizer):
    """The rows of a file, whose captions are cut into the tokenizer, and whether they are one JSON list."""
    try:
        with open(path, 'rb') as f:
            if os.fstat(f.fileno()).st_size > _LARGEST:
                raise InputError(f'{path}: more than {_LARGEST:,} bytes of captions')
            data = f.read()
    except OSError as e:
        raise unreadable(path, e) from e
    is_list = data.removeprefix(b'\xef\xbb\xbf').lstrip()[:1] == b'['
    if is_list:
        rows = [_row(row, f'{path}: [{i}]', tokenizer) for i, row in enumerate(decode_json(data, path))]
    else:
        rows = [_row(_parse_line(line, path, i), f'{path}: line {i}', tokenizer)
                for i, line in enumerate(io.BytesIO(data), 1) if line.strip()]
    if not rows:
        raise InputError(f'{path}: holds no captions')
    return rows, is_list


def _parse_line(line, path, number):
    try:
        return parse_json(line)
    except (ValueError, MemoryError) as e:
        raise InputError(f'{path}: line {number} is no JSON; captions come as JSON lines or as one JSON list of '
                         '{"image_id", "caption"}') from e


def _row(row, where, tokenizer):
    if not isinstance(row, dict):
        raise InputError(f'{where}: no object with "image_id" or "filename" and "caption"')
    image_id, filename = row.get('image_id'), row.get('filename')
    if isinstance(image_id, bool) or not isinstance(image_id, int | None):
        raise InputError(f'{where}: "image_id" should be a whole number, not {image_id!r}')
    if not isinstance(filename, str | None) or image_id is filename is None:
        raise InputError(f'{where}: names no image by "image_id" or "filename"')
    captions = row.get('captions', [row] if 'caption' in row else [])
    if not isinstance(captions, list) or not captions:
        reason = f' ({row["error"]})' if isinstance(row.get('error'), str) else ''
        raise InputError(f'{where}: has no caption of {filename or image_id}{reason}')
    return _Row(where, image_id, filename, _prediction(captions[0], where, tokenizer))


def _prediction(caption, where, tokenizer):
    caption = caption if isinstance(caption, dict) else {'caption': caption}
    tokens, finished = caption.get('tokens'), caption.get('finished')
    if not (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)):
        text = caption.get('caption')
        if not isinstance(text, str):
            raise InputError(f'{where}: the caption is no text but {text!r}')
        tokens = split_text(text, tokenizer)
    if len(tokens) > _WORDS:
        raise InputError(f'{where}: a caption of {len(tokens):,} words; at most {_WORDS:,} are scored')
    return Prediction(tokens, finished if isinstance(finished, bool) else None)


def _match(rows, dataset, images, is_list, path):
    """The row of each image that has one: a dict from places in `dataset.captions.filenames`."""
    filenames = dataset.captions.filenames
    kind, by_id = _reading({row.image_id for row in rows}, dataset.captions, images,
                           ('cocoid', 'imgid') if is_list else ('imgid', 'cocoid'))
    by_name = _by_name(filenames)
    found = {}
    for row in rows:
        place = _place(row, kind, by_id, by_name, filenames)
        if place in found:
            raise InputError(f'{row.where}: a second caption of {filenames[place]}, after '
                             f'{found[place].where.removeprefix(f"{path}: ")}; an image has one row')
        found[place] = row
    return found


def _reading(given, captions, images, kinds):
    """Which of the kinds of id those given are, and the places of images by it.

    That is the first kind by which they name all of the images, or else the first that the dataset has at all.
    """
    ids = {'imgid': captions.image_ids, 'cocoid': captions.coco_ids}
    there = [kind for kind in kinds if (ids[kind] >= 0).any()]
    kind = next((kind for kind in there if given.issuperset(ids[kind][images].tolist())), there[0])
    return kind, {int(i): place for place, i in enumerate(ids[kind]) if i >= 0}


def _by_name(filenames):
    """Places by whole names and, where there is no such name, by the last part of a path."""
    places = {}
    for key in filenames, [os.path.basename(name) for name in filenames]:
        own = {}
        for place, name in enumerate(key):
            own[name] = _AMBIGUOUS if name in own else place
        places = {**own, **places}
    return places


def _place(row, kind, by_id, by_name, filenames):
    if row.image_id is None:
        place = by_name.get(row.filename, by_name.get(os.path.basename(row.filename)))
        if place is None:
            raise InputError(f'{row.where}: the dataset has no image {row.filename}')
        if place == _AMBIGUOUS:
            raise InputError(f'{row.where}: the dataset has several images {row.filename}; name them by "image_id"')
        return place
    place = by_id.get(row.image_id)
    if place is None:
        raise InputError(f'{row.where}: the dataset has no image with the {kind} {row.image_id}')
    if row.filename is not None and os.path.basename(row.filename) != os.path.basename(filenames[place]):
        raise InputError(f'{row.where}: the {kind} {row.image_id} is {filenames[place]} in the dataset and not '
                         f'{row.filename}; these are captions of other images')
    return place


def _notice_foreign_tokens(path, predictions, words, say):
    """Says when captions were not tokenised as the references were: capitals and full stops cost matches."""
    known = set(words)
    foreign = [token for prediction in predictions for token in prediction.tokens
               if token not in known and token.lower().strip(_PUNCTUATION) in known]
    if len(foreign) > len(predictions) // 10:
        say(f'{path}: {len(foreign):,} words have capitals or punctuation that the references do not, such as '
            f'{foreign[0]!r}; they score as they stand, tokenise them as the dataset is')
