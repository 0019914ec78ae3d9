"""Captions into a file, so that a run which was killed goes on where it was.

While it runs, what is done stands in a journal beside the file, under its name with `.part` behind: a row an image.
The file itself appears when all is done, and takes the place of an older one only then.
"""
import dataclasses
import hashlib
import itertools
import os

import numpy as np

from chainer_caption.captioning.captioner import ROWS
from chainer_caption.captioning.results import Caption, Result
from chainer_caption.data.captions import TOKENIZERS
from chainer_caption.errors import InputError
from chainer_caption.features.prefetch import BATCH
from chainer_caption.functions.matmul import arithmetic
from chainer_caption.parallel import Processes
from chainer_caption.report import open_writer
from chainer_caption.storage.files import atomic_write, unwritable
from chainer_caption.storage.journal import Journal, stamp
from chainer_caption.storage.serializers import arrays_digest, to_arrays


class Images:
    """Images to be captioned.

    Args:
        captioner (Captioner): With an encoder.
        paths (list of str): The images.

    Attributes:
        captioner (Captioner): As given.
        items (list): What stands for each image; here its path.
        batch (int): How many are computed together.
    """
    batch = BATCH

    def __init__(self, captioner, paths):
        self.captioner, self.items = captioner, paths

    @property
    def settings(self):
        """What the captions depend on besides the model, the search and the images; as `Journal` takes it."""
        return {**self.captioner.extractor.identity, 'device': arithmetic(self.captioner.device)}

    def caption(self, items, search):
        """Checks at once whether the captioner can do it, and gives an iterator of a `Result` for each of the items."""
        return self.captioner.caption_files(items, search)

    def result(self, path):
        """The result of an image before it has captions."""
        return Result(path, path)

    def stamp(self, path):
        """What tells that an image is the one that was captioned: a list of JSON values."""
        return [path, *stamp(path)]


class StoredFeatures:
    """Images of a dataset to be captioned by the features stored there; otherwise as `Images`.

    Args:
        captioner (Captioner): The model.
        dataset (Dataset): The dataset.
        split (str): Whose images; `items` are their places in `dataset.captions.filenames`.

    Raises:
        InputError: The split is empty.
    """
    batch = ROWS

    def __init__(self, captioner, dataset, split):
        self.captioner, self._dataset = captioner, dataset
        self.items = dataset.images(split).tolist()
        digest = dataset.reading(captioner.reads).digest
        self.settings = {'split': split, 'feature matrix': ' '.join(
            digest[key] for key in ('features', 'grids') if key in digest),
                         'device': arithmetic(captioner.device)}

    def caption(self, items, search):
        return self.captioner.caption_images(self._dataset, np.array(items, int), search)

    def result(self, place):
        captions = self._dataset.captions
        return Result(None, captions.filenames[place], int(captions.image_ids[place]))

    def stamp(self, place):
        # Its row in the matrix, and whose that is.
        result = self.result(place)
        return [result.filename, result.image_id]


class CaptionFile:
    """Captions of images on their way into a file. A context manager; leaving its block early loses nothing.

        with CaptionFile(Images(captioner, paths), 'captions.jsonl') as captions:
            for result in captions.results():
                print(result.path)
            captions.finish('jsonl')

    What was done before is kept as far as the images are still the same: their names, sizes and times of change, or
    their names and rows in the same feature matrix. It is kept in whole batches, so that every image is computed in
    the company that it always has, and the file is the same to the last byte however often its making was stopped.

    Args:
        work (Images or StoredFeatures): What to caption.
        output (str or os.PathLike): The file.
        search (BeamSearch, DiverseBeamSearch, Sampling or None): As for `Captioner.caption`.
        processes (Processes or None): Those that share the images; this is process 0. The others have
            `caption_together` find nothing.

    Attributes:
        done (int): How many of the images were done by earlier runs.

    Raises:
        InputError: The captioner cannot do it, an earlier run with another model or another search was stopped and not
            finished, or nothing can be written there.
    """

    def __init__(self, work, output, search=None, processes=None):
        self._work, self._output = work, os.fspath(output)
        self._search = work.captioner.search(search)
        self._processes = processes or Processes()
        if os.path.isdir(output):
            raise InputError(f'{output}: is a folder; name a file')
        work.caption([], self._search)                  # what it refuses it refuses before there is a journal
        self._journal = Journal(f'{self._output}.part', {
            'model': _digest(work.captioner.bundles), **work.settings, 'search': type(self._search).__name__,
            **{name.replace('_', '-'): value for name, value in dataclasses.asdict(self._search).items()}})
        # Before any is read: an image that changes meanwhile is another one to the next run.
        self._stamps = list(map(work.stamp, work.items))
        same = itertools.takewhile(self._is_done, zip(self._journal.rows(), work.items, self._stamps, strict=False))
        self.done = sum(1 for _ in same) // work.batch * work.batch
        self._journal.cut(self.done)

    def _is_done(self, row_item_stamp):
        row, item, of = row_item_stamp
        return row.get('of') == of and _is_result(row.get('result'), self._work.result(item))

    def results(self):
        """Captions what is not done yet.

        Yields:
            Result: One an image, in their order: first those that were done before, then the others as they are done.
        """
        yield from self._kept()
        found = caption_together(self._work, self._search, self._processes, self.done)
        for of, result in zip(self._stamps[self.done:], found, strict=True):
            self._journal.append({'of': of, 'result': dataclasses.asdict(result)})
            yield result

    def finish(self, format, track=lambda results: results, **settings):
        """Writes the file, when `results` has been exhausted, and deletes the journal.

        Args:
            format (str): As for `chainer_caption.report.open_writer`.
            track (callable): Takes the iterator of results and returns it, to show how far the writing is.
            **settings: Those of the format's writer.

        Raises:
            InputError: The file cannot be written.
        """
        try:
            with atomic_write(self._output, 'w', newline='') as f, open_writer(format, f, **settings) as writer:
                for result in track(self._kept()):
                    writer.write(result)
        except OSError as e:
            raise unwritable(self._output, e) from e
        self._journal.remove()

    def _kept(self):
        for row in self._journal.rows():
            result = row['result']
            yield Result(**{**result, 'captions': [Caption(**caption) for caption in result['captions']]})

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._journal.__exit__(*exception)


def caption_together(work, search, processes, done=0):
    """Captions images, in their order, by several processes.

    Args:
        work (Images or StoredFeatures): The images.
        search (BeamSearch, DiverseBeamSearch or Sampling): What to caption with.
        processes (Processes): Those that share them, each of which calls this.
        done (int): How many of the images need no captions any more; process 0 says it.

    Yields:
        Result: In process 0, one an image. In the others nothing.
    """
    return processes.map(lambda mine: work.caption(mine, search), work.items, work.batch, done)


def _is_result(found, expected):
    """Whether a JSON value is a result of the image of which `expected` is the result without captions."""
    names = {field.name for field in dataclasses.fields(Result)}
    return (isinstance(found, dict) and found.keys() == names
            and all(found[name] == getattr(expected, name) for name in ('path', 'filename', 'image_id'))
            and isinstance(found['error'], str | None) and isinstance(found['captions'], list)
            and (found['error'] is None) == bool(found['captions']) and all(map(_is_caption, found['captions'])))


def _is_caption(caption):
    return (isinstance(caption, dict) and caption.keys() == {field.name for field in dataclasses.fields(Caption)}
            and isinstance(caption['tokens'], list) and all(isinstance(token, str) for token in caption['tokens'])
            and isinstance(caption['log_prob'], float) and isinstance(caption['log_prob_per_token'], float)
            and isinstance(caption['finished'], bool) and caption['tokenizer'] in TOKENIZERS)


def _digest(bundles):
    words = repr(bundles[0].vocabulary.words).encode(errors='backslashreplace')
    weights = ''.join(arrays_digest(to_arrays(bundle.model)) for bundle in bundles)
    return hashlib.sha256(words + weights.encode()).hexdigest()
