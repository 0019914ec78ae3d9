"""Builds a dataset from a folder of images: features, file names, and captions if there are any.

While it is built, the folder holds `feats.npy.LIST.part` (of grids, `grids.npy.LIST.part`), named after the list of
images, and a journal of its rows; `feats.npy` and `dataset.json` appear at the end. An image is known by its name, size
and time of change: rows of images that are the same are kept, whatever else was added, changed or removed. Batches
begin at fixed places, so that the matrix of unchanged images is the same to the last byte however often its making was
stopped; rows that are added to a matrix later may differ from those of a fresh one as far as the encoder's last bits
depend on the batch.
"""
from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from chainer_caption.data.caption_parsers import ImageCaptions, match_images, read_caption_file
from chainer_caption.data.tokenization import tokenize
from chainer_caption.errors import InputError
from chainer_caption.features.folders import find_images
from chainer_caption.features.images import ImageError
from chainer_caption.features.prefetch import BATCH, compute_batch, prepared_batches
from chainer_caption.storage.files import read_json, reserve, unwritable, with_filename, write_json
from chainer_caption.storage.journal import Journal, check_same, stamp
from chainer_caption.storage.legacy import current_keys

VECTORS, GRIDS, DATASET = 'feats.npy', 'grids.npy', 'dataset.json'
_RECORD, _JOURNAL = '.json', '.part.jsonl'              # after the name of the matrix

# Hexadecimal digits of an image's stamp, and bytes of a record, which has a stamp for each image, at most.
_DIGITS, _LARGEST = 16, 2 ** 28

#: What is known of a row of a matrix: the stamp of its image, and why that cannot be read.
_Row = tuple[str, str | None]

Path = str | os.PathLike[str]
Progress = Callable[[int, int], Any]
Report = Callable[[str, str], Any]
Say = Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Splitting:
    """How images are assigned to splits if their captions do not give any."""
    seed: int = 0                                       #: random seed of the shuffle
    val: float = 0.1                                    #: fraction of the images for `val`
    test: float = 0.1                                   #: fraction for `test`; the rest is `train`

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError.of('split_seed', self.seed, 'must not be negative')
        for name in ('val', 'test'):
            if not 0 <= getattr(self, name) <= 1 or self.val + self.test > 1:
                raise InputError.of(name, getattr(self, name), 'val and test must be fractions whose sum is at most 1')

    def split(self, count: int) -> list[str]:
        """The split of each of `count` images."""
        val, test = round(count * self.val), round(count * self.test)
        splits = ['val'] * val + ['test'] * min(test, count - val) + ['train'] * (count - val - test)
        return [splits[i] for i in np.random.default_rng(self.seed).permutation(count)]


def extract_features(folder: Path, output: Path, extractor: Any, captions: Path | None = None, dtype: str = 'float32',
                     splitting: Splitting | None = None, progress: Progress = lambda done, total: None,
                     report: Report = lambda filename, reason: None, say: Say = lambda line: None,
                     tokenizer: str = 'words') -> dict[str, str]:
    """Builds a dataset from a folder of images; returns file name to reason, for each image that cannot be read.

    The same call resumes a run that was stopped. In a finished dataset only images that are new or have changed are
    computed; until that is done, the old matrix stays. Captions are read at each call, so that they can be added or
    corrected later.

    Args:
        folder: The images, as `find_images` finds them.
        output: The folder to write: `feats.npy`, (N, D), or `grids.npy`, (N, L, D), as the extractor computes, a row
            for each image in sorted order, zero for those that cannot be read; `feats.npy.json`, which records what
            made it; and `dataset.json`, with the images that can be read and, if captions are given, have some.
        extractor: The `Extractor`; its features are stored as `dtype`, `'float32'` or `'float16'`.
        captions: As for `read_caption_file`. Without it no image has a sentence, and all are of the split `test`.
        splitting: For captions without splits; None for the defaults.
        progress: Takes the number of images done, earlier runs included, and of all; first before any is computed.
        report: Takes the name of each image that cannot be read, and the reason.
        say: Takes notices, a line each.
        tokenizer: One of `captions.TOKENIZERS`; `dataset.json` records it.

    Raises:
        InputError: The folder holds no images, the captions are of other images, or `output` holds something else than
            this dataset or its beginning.
    """
    folder, output = os.fspath(folder), pathlib.Path(output)
    if not os.path.isdir(folder):
        raise InputError(f'{folder}: no such folder')
    if not (paths := find_images(folder)):
        raise InputError(f'{folder}: no images in there')
    names = [os.path.relpath(path, folder) for path in paths]
    images = _described(names, captions, splitting or Splitting(), tokenizer, say)
    settings = {**extractor.identity, 'dtype': np.dtype(dtype).name}
    # Before any is read: one that changes meanwhile is another image to the next call.
    stamps = [_digest([name, stamp(path)])[:_DIGITS] for name, path in zip(names, paths, strict=True)]
    try:
        output.mkdir(parents=True, exist_ok=True)
        matrix = output / (VECTORS if len(_shape(extractor)) == 1 else GRIDS)
        finished = _finished(matrix, settings, names, paths, stamps)
        if not _beside(matrix, _JOURNAL).exists() and [of for of, _ in finished] == stamps:
            failed = _failures(names, dict(enumerate(finished)), report)
        else:
            failed = _extract(paths, names, matrix, extractor, settings, stamps, finished, progress, report, say)
        images = [image for image in images if image['filename'] not in failed]
        write_json(output / DATASET, {'dataset': output.resolve().name, 'tokenizer': tokenizer, 'images': images},
                   indent=None)
    except OSError as e:
        raise unwritable(e.filename or output, e) from e
    return failed


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _failures(names: list[str], rows: dict[int, _Row],
              report: Report = lambda filename, reason: None) -> dict[str, str]:
    failed = {names[i]: reason for i, (_, reason) in sorted(rows.items()) if reason is not None}
    for name, reason in failed.items():
        report(name, reason)
    return failed


def _shape(extractor: Any) -> tuple[int, ...]:          # of an image's features
    return getattr(extractor, 'shape', (extractor.dim,))


def _beside(matrix: pathlib.Path, suffix: str) -> pathlib.Path:
    return matrix.with_name(matrix.name + suffix)


def _finished(matrix: pathlib.Path, settings: dict[str, Any], names: list[str], paths: list[str],
              stamps: list[str]) -> list[_Row]:
    """What is known of the rows of the finished matrix; nothing where there is none."""
    output = matrix.parent
    if matrix.exists() and _beside(matrix, _RECORD).exists():
        record = current_keys(read_json(_beside(matrix, _RECORD), _LARGEST))
        if isinstance(record, dict) and isinstance(record.get('failed'), dict):
            check_same(output, record, settings)
            before, failed = record.get('stamps'), record['failed']
            if isinstance(before, str):
                of_name = dict(zip(stamps, names, strict=True))
                each = (before[i:i + _DIGITS] for i in range(0, len(before), _DIGITS))
                return [(of, failed.get(of_name.get(of, ''))) for of in each]
            # Version 1.0.0 had a stamp for each batch, or none, and a digest of the names.
            check_same(output, record, {'list of images': _digest(names)})
            now = [_digest(list(map(stamp, paths[i:i + BATCH])))[:16] for i in range(0, len(paths), BATCH)]
            before = before if isinstance(before, list) and len(before) == len(now) else now
            return [(of if before[i // BATCH] == now[i // BATCH] else '', failed.get(name))
                    for i, (of, name) in enumerate(zip(stamps, names, strict=True))]
    for name in () if _beside(matrix, _JOURNAL).exists() else (VECTORS, GRIDS, DATASET, 'vgg_feats.mat'):
        if (output / name).exists():
            raise InputError(f'{output}: has a {name} that this command did not write; choose another folder')
    return []


def _extract(paths: list[str], names: list[str], matrix: pathlib.Path, extractor: Any, settings: dict[str, Any],
             stamps: list[str], finished: list[_Row], progress: Progress, report: Report, say: Say) -> dict[str, str]:
    output, layout, dtype = matrix.parent, _digest(names)[:_DIGITS], np.dtype(settings['dtype'])
    shape = len(paths), *_shape(extractor)
    part, size = _beside(matrix, f'.{layout}.part'), math.prod(shape[1:]) * dtype.itemsize
    with Journal(_beside(matrix, _JOURNAL), settings) as journal:
        logged = list(journal.rows())
        journal.cut(len(logged))
        parts = sorted(output.glob(f'{matrix.name}*.part'))
        if not parts and [of for of, _ in finished] == stamps:
            # The matrix has got its name, and the run was stopped right then.
            journal.remove()
            return _failures(names, dict(enumerate(finished)))
        if part in parts and part.stat().st_size == len(_header(shape, dtype)) + len(paths) * size:
            done = _done(logged, layout)
        else:
            # A record may be newer than its matrix only while there is a part, which has all of its rows then.
            sources = {other: _done(logged, other.name.split('.')[-2]) for other in parts if other != part} \
                if parts else {matrix: dict(enumerate(finished))}
            done = _create(part.with_suffix('.new'), shape, dtype, stamps, sources)
            if done:
                say(f'{output}: {len(done):,} of {len(names):,} images are there already; '
                    f'{len(names) - len(done):,} are new or have changed')
            journal.append({'of': layout, 'begin': True, 'rows': {}})
            for at in range(0, len(paths), BATCH):
                if rows := {i: done[i] for i in range(at, at + BATCH) if i in done}:
                    journal.append({'of': layout, 'rows': rows})
            os.replace(part.with_suffix('.new'), part)
            for other in (*(sources.keys() & set(parts)), *output.glob(f'{matrix.name}.*.new')):
                other.unlink()
        done = {i: row for i, row in done.items() if i < len(stamps) and row[0] == stamps[i]}
        _failures(names, done, report)
        left = [places for at in range(0, len(paths), BATCH)
                if (places := [i for i in range(at, min(at + BATCH, len(paths))) if i not in done])]
        progress(len(done), len(paths))
        with with_filename(part), open(part, 'r+b') as f:
            start = f.seek(0, os.SEEK_END) - len(paths) * size
            prepared = prepared_batches(extractor, [paths[i] for places in left for i in places], map(len, left))
            for places, batch in zip(left, prepared, strict=True):
                with np.errstate(over='ignore'):
                    values = compute_batch(extractor, batch, shape[1:]).astype(dtype)
                if not np.isfinite(values).all():
                    bad = names[places[np.argwhere(~np.isfinite(values))[0][0]]]
                    raise InputError(f'{bad}: has features that are no numbers in {dtype}; try --dtype float32')
                # The rows have to be on the disk before the journal lists them.
                for i, row in zip(places, values, strict=True):
                    f.seek(start + i * size)
                    f.write(row.tobytes())
                f.flush()
                os.fsync(f.fileno())
                rows = {i: (stamps[i], str(image) if isinstance(image, ImageError) else None)
                        for i, (_, image) in zip(places, batch, strict=True)}
                journal.append({'of': layout, 'rows': rows})
                done.update(rows)
                _failures(names, rows, report)
                progress(len(done), len(paths))
        failed = _failures(names, done)
        write_json(_beside(matrix, _RECORD), {**settings, 'failed': failed, 'stamps': ''.join(stamps)})
        os.replace(part, matrix)
        journal.remove()
    return failed


def _done(logged: list[dict[str, Any]], layout: str) -> dict[int, _Row]:
    """What the journal has of the rows of a part."""
    done: dict[int, _Row] = {}
    for entry in logged:
        if entry.get('of') == layout and isinstance(rows := entry.get('rows'), dict):
            if entry.get('begin'):
                done.clear()
            done |= {int(i): (row[0], row[1] if isinstance(row[1], str) else None) for i, row in rows.items()
                     if i.isdecimal() and isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)}
    return done


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    f = io.BytesIO()
    np.lib.format.write_array_header_1_0(f, {'shape': shape, 'fortran_order': False, 'descr': dtype.str})
    return f.getvalue()


def _create(path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype, stamps: list[str],
            sources: dict[pathlib.Path, dict[int, _Row]]) -> dict[int, _Row]:
    """Creates a matrix with the rows that other files have already; returns what is known of these."""
    where = {of: (source, row, reason) for source, rows in sources.items() for row, (of, reason) in rows.items()}
    size, header = math.prod(shape[1:]) * dtype.itemsize, _header(shape, dtype)
    start, done, opened = len(header), {}, {}
    with contextlib.ExitStack() as stack, with_filename(path), open(path, 'wb') as f:
        f.write(header)
        # A disk that is too small is found out now and not hours later.
        reserve(f, start + shape[0] * size)
        for source in {source for source, _, _ in where.values()}:
            other = stack.enter_context(open(source, 'rb'))
            # Its rows, if it is a matrix of this width and type.
            count, rest = divmod(os.fstat(other.fileno()).st_size - start, size)
            if count >= 0 and not rest and other.read(start) == _header((count, *shape[1:]), dtype):
                opened[source] = other
        for i, of in enumerate(stamps):
            if of in where and where[of][0] in opened:
                source, row, reason = where[of]
                opened[source].seek(start + row * size)
                if len(data := opened[source].read(size)) == size:
                    f.seek(start + i * size)
                    f.write(data)
                    done[i] = of, reason
        f.flush()
        os.fsync(f.fileno())
    return done


def _described(names: list[str], captions: Path | None, splitting: Splitting, tokenizer: str,
               say: Say) -> list[dict[str, Any]]:
    """The entries of `dataset.json`, as if every image could be read."""
    if captions is None:
        return [{'filename': name, 'imgid': row, 'split': 'test', 'sentids': [], 'sentences': []}
                for row, name in enumerate(names)]
    described = read_caption_file(captions, names, say)
    found = match_images(described, names)
    if not found:
        raise InputError(f'{captions}: describes no image of the folder; the first it names is {next(iter(described))}')
    if missing := [name for name in described if name not in found]:
        say(f'{captions}: {len(missing):,} of the {len(described):,} images it names are not in the folder, or not '
            f'plainly one image of it, such as {missing[0]}')
    of_name: dict[str, ImageCaptions] = collections.defaultdict(ImageCaptions)
    for name, image in found.items():
        of_name[image].join(described[name], f'{captions}: {name}')
    rows = [row for row, name in enumerate(names) if of_name[name].captions]
    if left := len(names) - len(rows):
        say(f'{captions}: {left:,} images of the folder have no captions and are left out of {DATASET}')
    images, count = [], 0
    for row, split in zip(rows, splitting.split(len(rows)), strict=True):
        name, of = names[row], of_name[names[row]]
        sentences = [{'tokens': tokenize(raw, tokenizer) if tokens is None else tokens, 'raw': raw, 'imgid': row,
                      'sentid': count + i} for i, (raw, tokens) in enumerate(zip(of.captions, of.tokens, strict=True))]
        count += len(sentences)
        images.append({'filename': name, 'imgid': row, 'split': of.split or split,
                       'sentids': [sentence['sentid'] for sentence in sentences], 'sentences': sentences,
                       **({} if of.coco_id is None else {'cocoid': of.coco_id})})
    return images
