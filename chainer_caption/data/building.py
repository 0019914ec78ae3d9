"""Turns a folder of images into a dataset: features, file names, and captions where there are some.

While it is made, the folder holds `feats.npy.part` and a journal of the batches in it; `feats.npy` and `dataset.json`
appear when all is done. Batches begin at fixed places, so that the matrix is the same to the last byte however often
its making was stopped. A batch of which an image has changed since, by its size or its time of change, is made again.
"""
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil

import numpy as np

from chainer_caption.data.caption_parsers import read_caption_file
from chainer_caption.data.tokenization import tokenize
from chainer_caption.errors import InputError
from chainer_caption.features.folders import find_by_name, find_images
from chainer_caption.features.images import ImageError
from chainer_caption.features.prefetch import BATCH, compute_batch, prepared_batches
from chainer_caption.storage.files import read_json, reserve, unwritable, with_filename, write_json
from chainer_caption.storage.journal import Journal, check_same, stamp
from chainer_caption.storage.legacy import current_keys

MATRIX, RECORD, DATASET = 'feats.npy', 'feats.npy.json', 'dataset.json'


@dataclasses.dataclass(frozen=True)
class Splitting:
    """How images are dealt out to the splits where their captions do not come with one.

    Attributes:
        seed (int): Of the shuffle.
        val (float): The part of the images that becomes `val`.
        test (float): The part that becomes `test`; the rest is `train`.
    """
    seed: int = 0
    val: float = 0.1
    test: float = 0.1

    def __post_init__(self):
        if self.seed < 0:
            raise InputError(f'a seed is not negative, as {self.seed} is')
        if min(self.val, self.test) < 0 or self.val + self.test > 1:
            raise InputError(f'parts of {self.val} for val and {self.test} for test: neither is below 0, nor both '
                             'together above 1')

    def split(self, count):
        """The split of each of `count` images: a list of str."""
        val, test = round(count * self.val), round(count * self.test)
        splits = ['val'] * val + ['test'] * min(test, count - val)
        splits += ['train'] * (count - len(splits))
        return [splits[i] for i in np.random.default_rng(self.seed).permutation(count)]


def extract_features(folder, output, extractor, captions=None, dtype='float32', splitting=None,
                     progress=lambda done, total: None, report=lambda filename, reason: None, say=lambda line: None,
                     tokenizer='words'):
    """Makes a dataset of a folder of images.

    A run that was stopped is taken up where it was by the same call. A finished one is not repeated, but its captions
    are read again, so that they can be added or mended later, and where images have changed since, it is taken up as
    if it had been stopped before those; until that is done, the old matrix stays.

    Args:
        folder (str or os.PathLike): The images, which `find_images` finds in it.
        output (str or os.PathLike): The folder to write: `feats.npy`, (N, D), a row for each image in sorted order,
            zero for those that cannot be read; `feats.npy.json`, which records what made it; and `dataset.json`, with
            the images that can be read and, if there are captions, have some.
        extractor (Extractor): What makes the features.
        captions (str or os.PathLike or None): As for `read_caption_file`. Without it no image has a sentence, and
            all are of the split `test`.
        dtype (str): `'float32'` or `'float16'`.
        splitting (Splitting or None): For captions without splits; None for the defaults.
        progress (callable): Takes the number of images done, earlier runs included, and of all; called at the
            beginning and after each batch.
        report (callable): Takes the name of each image that cannot be read, and why.
        say (callable): Takes notices, a line each.
        tokenizer (str): What to cut captions into, see `data.units.cut`; `dataset.json` records it.

    Returns:
        dict: File name to reason, for each image that cannot be read.

    Raises:
        InputError: The folder holds no images, the captions are none of theirs, or something else than the
            beginning of this dataset is in `output`.
    """
    folder, output = os.fspath(folder), pathlib.Path(output)
    if not os.path.isdir(folder):
        raise InputError(f'{folder}: no such folder')
    paths = find_images(folder)
    if not paths:
        raise InputError(f'{folder}: no images in there')
    names = [os.path.relpath(path, folder) for path in paths]
    images = _described(names, captions, splitting or Splitting(), tokenizer, say)
    settings = {**extractor.identity, 'dtype': np.dtype(dtype).name, 'list of images': _digest(names)}
    # Before any is read: one that changes meanwhile is another image to the next call.
    stamps = [_digest(list(map(stamp, paths[i:i + BATCH])))[:16] for i in range(0, len(paths), BATCH)]
    try:
        output.mkdir(parents=True, exist_ok=True)
        failed = _finished(output, settings, stamps, names, say)
        if failed is None:
            failed = _extract(paths, names, output, extractor, settings, stamps, progress, report)
        else:
            for name, reason in failed.items():
                report(name, reason)
        images = [image for image in images if image['filename'] not in failed]
        write_json(output / DATASET, {'dataset': output.resolve().name, 'tokenizer': tokenizer, 'images': images},
                   indent=None)
    except OSError as e:
        raise unwritable(e.filename or output, e) from e
    return failed


def _digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _finished(output, settings, stamps, names, say):
    """The failures of the run that made what is in the folder; None if there is something left to do."""
    if _journal_path(output).exists():
        return None
    if (output / MATRIX).exists() and (output / RECORD).exists():
        record = current_keys(read_json(output / RECORD))
        if isinstance(record, dict) and isinstance(record.get('failed'), dict):
            check_same(output, record, settings)
            before = record.get('stamps')
            if before == stamps or not isinstance(before, list) or len(before) != len(stamps):
                return record['failed']                 # the same, or of a version that kept no stamps
            same = [i for i, (one, other) in enumerate(zip(before, stamps, strict=True)) if one == other]
            say(f'{output}: some of the images have changed since; '
                f'{len(stamps) - len(same):,} of {len(stamps):,} batches are made again')
            _reopen(output, settings, {i: _row(i, stamps, names, record['failed']) for i in same})
            return None
    for name in (MATRIX, DATASET, 'vgg_feats.mat'):
        if (output / name).exists():
            raise InputError(f'{output}: has a {name} that this command did not write; choose another folder')
    return None


def _reopen(output, settings, rows):
    """Makes of a finished run one that was stopped when these batches were done."""
    part = _part_path(output)
    with with_filename(part), open(output / MATRIX, 'rb') as old, open(part, 'wb') as new:
        shutil.copyfileobj(old, new, 2 ** 20)
        new.flush()
        os.fdatasync(new.fileno())
    with Journal(_journal_path(output), settings) as journal:
        for row in rows.values():
            journal.append(row)


def _row(batch, stamps, names, failed):
    """What the journal says of a batch that is done."""
    own = names[batch * BATCH:(batch + 1) * BATCH]
    return {'batch': batch, 'of': stamps[batch], 'failed': {name: failed[name] for name in own if name in failed}}


def _part_path(output):
    return output / f'{MATRIX}.part'


def _journal_path(output):
    return output / f'{MATRIX}.part.jsonl'


def _extract(paths, names, output, extractor, settings, stamps, progress, report):
    part, matrix = _part_path(output), output / MATRIX
    shape, dtype = (len(paths), extractor.dim), np.dtype(settings['dtype'])
    with Journal(_journal_path(output), settings) as journal:
        rows = list(journal.rows())
        done = _done(rows, stamps)
        if not done or not (part.exists() or (matrix.exists() and len(done) == len(stamps))):
            done, rows = {}, []
            _create(part, shape, dtype)
        journal.cut(len(rows))
        failed = {name: reason for batch in done.values() for name, reason in batch.items()}
        for name, reason in failed.items():
            report(name, reason)
        left = [i for i in range(len(stamps)) if i not in done]
        paths_left = [path for i in left for path in paths[i * BATCH:(i + 1) * BATCH]]
        count = len(paths) - len(paths_left)
        progress(count, len(paths))
        if part.exists():                               # or has got its name, and the run was stopped right then
            with with_filename(part), open(part, 'r+b') as f:
                size = shape[1] * dtype.itemsize
                start = f.seek(0, os.SEEK_END) - len(paths) * size
                for i, batch in zip(left, prepared_batches(extractor, paths_left), strict=True):
                    # The rows have to be on the disk before the journal says that they are.
                    f.seek(start + i * BATCH * size)
                    f.write(compute_batch(extractor, batch, (extractor.dim,)).astype(dtype).tobytes())
                    f.flush()
                    os.fdatasync(f.fileno())
                    bad = {names[i * BATCH + j]: str(image) for j, (_, image) in enumerate(batch)
                           if isinstance(image, ImageError)}
                    journal.append(_row(i, stamps, names, bad))
                    failed.update(bad)
                    for name, reason in bad.items():
                        report(name, reason)
                    count += len(batch)
                    progress(count, len(paths))
            failed = {name: failed[name] for name in names if name in failed}
            write_json(output / RECORD, {**settings, 'failed': failed, 'stamps': stamps})
            os.replace(part, matrix)
        journal.remove()
    return failed


def _done(rows, stamps):
    """The failures of each batch that is done and whose images are still the same, by its number: a dict of dicts."""
    latest = {row['batch']: row for row in rows if isinstance(row.get('batch'), int)}
    return {i: latest[i]['failed'] for i, of in enumerate(stamps)
            if i in latest and latest[i].get('of') == of and isinstance(latest[i].get('failed'), dict)}


def _create(path, shape, dtype):
    with with_filename(path), open(path, 'wb') as f:
        np.lib.format.write_array_header_1_0(
            f, {'shape': shape, 'fortran_order': False, 'descr': np.lib.format.dtype_to_descr(dtype)})
        # A disk that is too small says so now and not hours later.
        reserve(f, f.tell() + math.prod(shape) * dtype.itemsize)


def _described(names, captions, splitting, tokenizer, say):
    """The entries of `dataset.json`, as if every image could be read."""
    if captions is None:
        return [{'filename': name, 'imgid': row, 'split': 'test', 'sentids': [], 'sentences': []}
                for row, name in enumerate(names)]
    described = read_caption_file(captions, names)
    found = find_by_name(described, names)
    if not found:
        raise InputError(f'{captions}: describes no image of the folder; the first it names is '
                         f'{next(iter(described))}')
    if len(found) < len(described):
        missing = [name for name in described if name not in found]
        say(f'{captions}: {len(missing)} of the images it names are not in the folder, the first is {missing[0]}')
    of_name = {found[name]: of for name, of in described.items() if name in found}
    rows = [row for row, name in enumerate(names) if name in of_name and of_name[name].captions]
    if len(rows) < len(names):
        say(f'{captions}: {len(names) - len(rows)} images of the folder have no captions and are left out of '
            f'{DATASET}')
    images, count = [], 0
    for row, split in zip(rows, splitting.split(len(rows)), strict=True):
        name, of = names[row], of_name[names[row]]
        spoken = zip(of.captions, of.tokens or (tokenize(raw, tokenizer) for raw in of.captions), strict=True)
        sentences = [{'tokens': tokens, 'raw': raw, 'imgid': row, 'sentid': count + i}
                     for i, (raw, tokens) in enumerate(spoken)]
        count += len(sentences)
        images.append({'filename': name, 'imgid': row, 'split': of.split or split,
                       'sentids': [sentence['sentid'] for sentence in sentences], 'sentences': sentences,
                       **({} if of.coco_id is None else {'cocoid': of.coco_id})})
    return images
