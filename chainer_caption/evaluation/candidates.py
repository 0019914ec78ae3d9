"""Captions made by any system, read from a file and matched to the pictures of a split.

Three layouts are told apart by what they hold. In each, a picture has one row:

- our JSON lines, `{"filename", "image_id"?, "captions": [{"caption", "tokens"?, "finished"?}, ...]}`, of which the
  first caption counts; or `{"filename" or "image_id", "caption"}`;
- a JSON list of such rows;
- the COCO results format, a JSON list of `{"image_id", "caption"}`.

In JSON lines `image_id` is the `imgid` of a picture, in a list its `cocoid` where the release has those; should that
not name every picture of the split and the other do so, it is the other. Rows of other splits' pictures are allowed:
published results often cover more than is asked for.
"""
import dataclasses
import io
import json
import os

from chainer_caption.data.units import join, split
from chainer_caption.errors import InputError
from chainer_caption.storage.files import decode_json, parse_json, unreadable

# What an evaluation server or a tokeniser would have taken off a word.
_PUNCTUATION = '.,;:!?"()'

_AMBIGUOUS = -1

# Bytes of a file, and words of a caption, at most: the time that scoring takes grows with the square of the words.
_LARGEST, _WORDS = 2 ** 30, 2000


@dataclasses.dataclass(frozen=True)
class Candidate:
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
    candidate: Candidate


def read_candidates(path, release, pictures, say=lambda line: None):
    """Reads the captions of some pictures of a release.

    Args:
        path (str or os.PathLike): The file.
        release (Release): The release.
        pictures (numpy.ndarray): The pictures, as places in `release.captions.filenames`.
        say (callable): Takes a notice, one line.

    Returns:
        list of Candidate: One for each of the pictures, in their order.

    Raises:
        InputError: The file cannot be read; a row has no caption, names a picture that the release does not have, or
            a picture that has had a row; or a picture has no row.
    """
    rows, is_list = _read_rows(path, release.captions.unit)
    found = _match(rows, release, pictures, is_list, path)
    captions = release.captions
    missing = [int(picture) for picture in pictures if picture not in found]
    if missing:
        raise InputError(f'{path}: {len(missing):,} of the {len(pictures):,} pictures have no caption, '
                         f'{captions.filenames[missing[0]]} (imgid {captions.image_ids[missing[0]]}) among them')
    if len(found) > len(pictures):
        say(f'{path}: {len(found) - len(pictures):,} captions are of pictures outside the split and are not scored')
    candidates = [found[int(picture)].candidate for picture in pictures]
    _notice_foreign_tokens(path, candidates, captions.words, say)
    return candidates


def write_coco_results(f, release, pictures, candidates):
    """Writes captions in the COCO results format, `[{"image_id", "caption"}, ...]`, for the official server.

    `image_id` is the `cocoid`, or the `imgid` where not all of the pictures have one.

    Args:
        f (text file): Where to write.
        release (Release): The release.
        pictures (numpy.ndarray): The pictures, as places in `release.captions.filenames`.
        candidates (list of Candidate): A caption for each.
    """
    ids = release.captions.coco_ids[pictures]
    if (ids < 0).any():
        ids = release.captions.image_ids[pictures]
    json.dump([{'image_id': int(i), 'caption': join(candidate.tokens, release.captions.unit)}
               for i, candidate in zip(ids, candidates, strict=True)], f, ensure_ascii=False)
    f.write('\n')


def _read_rows(path, unit):
    """The rows of a file, whose captions are cut into the unit, and whether they are one JSON list."""
    try:
        with open(path, 'rb') as f:
            if os.fstat(f.fileno()).st_size > _LARGEST:
                raise InputError(f'{path}: more than {_LARGEST:,} bytes of captions')
            data = f.read()
    except OSError as e:
        raise unreadable(path, e) from e
    is_list = data.removeprefix(b'\xef\xbb\xbf').lstrip()[:1] == b'['
    if is_list:
        rows = [_row(row, f'{path}: [{i}]', unit) for i, row in enumerate(decode_json(data, path))]
    else:
        rows = [_row(_parse_line(line, path, i), f'{path}: line {i}', unit)
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


def _row(row, where, unit):
    if not isinstance(row, dict):
        raise InputError(f'{where}: no object with "image_id" or "filename" and "caption"')
    image_id, filename = row.get('image_id'), row.get('filename')
    if isinstance(image_id, bool) or not isinstance(image_id, int | None):
        raise InputError(f'{where}: "image_id" should be a whole number, not {image_id!r}')
    if not isinstance(filename, str | None) or image_id is filename is None:
        raise InputError(f'{where}: names no picture by "image_id" or "filename"')
    captions = row.get('captions', [row] if 'caption' in row else [])
    if not isinstance(captions, list) or not captions:
        reason = f' ({row["error"]})' if isinstance(row.get('error'), str) else ''
        raise InputError(f'{where}: has no caption of {filename or image_id}{reason}')
    return _Row(where, image_id, filename, _candidate(captions[0], where, unit))


def _candidate(caption, where, unit):
    caption = caption if isinstance(caption, dict) else {'caption': caption}
    tokens, finished = caption.get('tokens'), caption.get('finished')
    if not (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)):
        text = caption.get('caption')
        if not isinstance(text, str):
            raise InputError(f'{where}: the caption is no text but {text!r}')
        tokens = split(text, unit)
    if len(tokens) > _WORDS:
        raise InputError(f'{where}: a caption of {len(tokens):,} words; at most {_WORDS:,} are scored')
    return Candidate(tokens, finished if isinstance(finished, bool) else None)


def _match(rows, release, pictures, is_list, path):
    """The row of each picture that has one: a dict from places in `release.captions.filenames`."""
    filenames = release.captions.filenames
    kind, by_id = _reading({row.image_id for row in rows}, release.captions, pictures,
                           ('cocoid', 'imgid') if is_list else ('imgid', 'cocoid'))
    by_name = _by_name(filenames)
    found = {}
    for row in rows:
        place = _place(row, kind, by_id, by_name, filenames)
        if place in found:
            raise InputError(f'{row.where}: a second caption of {filenames[place]}, after '
                             f'{found[place].where.removeprefix(f"{path}: ")}; a picture has one row')
        found[place] = row
    return found


def _reading(given, captions, pictures, kinds):
    """Which of the kinds of id those given are, and the places of pictures by it.

    That is the first kind by which they name all of the pictures, or else the first that the release has at all.
    """
    ids = {'imgid': captions.image_ids, 'cocoid': captions.coco_ids}
    there = [kind for kind in kinds if (ids[kind] >= 0).any()]
    kind = next((kind for kind in there if given.issuperset(ids[kind][pictures].tolist())), there[0])
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
            raise InputError(f'{row.where}: the release has no picture {row.filename}')
        if place == _AMBIGUOUS:
            raise InputError(f'{row.where}: the release has several pictures {row.filename}; name them by "image_id"')
        return place
    place = by_id.get(row.image_id)
    if place is None:
        raise InputError(f'{row.where}: the release has no picture with the {kind} {row.image_id}')
    if row.filename is not None and os.path.basename(row.filename) != os.path.basename(filenames[place]):
        raise InputError(f'{row.where}: the {kind} {row.image_id} is {filenames[place]} in the release and not '
                         f'{row.filename}; these are captions of other pictures')
    return place


def _notice_foreign_tokens(path, candidates, words, say):
    """Says when captions were not tokenised as the references were: capitals and full stops cost matches."""
    known = set(words)
    foreign = [token for candidate in candidates for token in candidate.tokens
               if token not in known and token.lower().strip(_PUNCTUATION) in known]
    if len(foreign) > len(candidates) // 10:
        say(f'{path}: {len(foreign):,} words have capitals or punctuation that the references do not, such as '
            f'{foreign[0]!r}; they score as they stand, tokenise them as the release is')
