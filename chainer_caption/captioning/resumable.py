"""Captions into a file, by a run that continues where an earlier one was stopped.

While it runs, a journal beside the file, `OUT.part`, holds a row for each image that is done. The file itself appears,
or replaces an older one, when all are done."""
import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from chainer_caption.captioning.captioner import ROWS, Captioner
from chainer_caption.captioning.results import Caption, Result
from chainer_caption.data.captions import TOKENIZERS
from chainer_caption.data.dataset import Dataset
from chainer_caption.errors import InputError
from chainer_caption.features.prefetch import BATCH
from chainer_caption.functions.matmul import arithmetic
from chainer_caption.parallel import Processes
from chainer_caption.report import open_writer
from chainer_caption.storage.files import atomic_write, unwritable
from chainer_caption.storage.journal import Journal, stamp
from chainer_caption.storage.serializers import arrays_digest, to_arrays


class Images:
    """Images to be captioned, by a captioner with an encoder, or skipped by a `min_confidence`. `items` are their
    paths; `batch` of them are computed together."""
    batch = BATCH

    def __init__(self, captioner: Captioner, paths: list[str], min_confidence: float | None = None) -> None:
        self.captioner, self.items, self._least = captioner, paths, min_confidence

    @property
    def settings(self) -> dict[str, Any]:
        """What the captions depend on besides the model, the search and the images; as `Journal` takes it."""
        return {**self.captioner.extractor.identity, 'device': arithmetic(self.captioner.device),
                'min-confidence': self._least}

    def caption(self, items: list[str], search: Any) -> Iterator[Result]:
        """An iterator of a result for each of the items; raises at once what the captioner refuses."""
        return self.captioner.caption_files(items, search, self._least)

    def result(self, item: str) -> Result:
        """The result of an image before it has captions."""
        return Result(item, item)

    def stamp(self, item: str) -> list[Any]:
        """What identifies the image that was captioned: a list of JSON values."""
        return [item, *stamp(item)]


class StoredFeatures:
    """The first `limit` images of a dataset's split, to be captioned by their stored features; otherwise as `Images`.

    `items` are their indices in `dataset.captions.filenames`. An empty split raises InputError."""
    batch = ROWS

    def __init__(self, captioner: Captioner, dataset: Dataset, split: str, limit: int | None = None,
                 min_confidence: float | None = None) -> None:
        self.captioner, self._dataset, self._least = captioner, dataset, min_confidence
        self.items: list[int] = dataset.images(split).tolist()[:limit]
        digest = dataset.reading(captioner.reads).digest
        digests = ' '.join(digest[key] for key in ('features', 'grids') if key in digest)
        self.settings = {'split': split, 'feature matrix': digests, 'device': arithmetic(captioner.device),
                         'min-confidence': min_confidence}

    def caption(self, items: list[int], search: Any) -> Iterator[Result]:
        return self.captioner.caption_images(self._dataset, np.array(items, int), search, self._least)

    def result(self, item: int) -> Result:
        captions = self._dataset.captions
        return Result(None, captions.filenames[item], int(captions.image_ids[item]))

    def stamp(self, item: int) -> list[Any]:
        result = self.result(item)
        return [result.filename, result.image_id]       # its name, and its row in the matrix


class CaptionFile(contextlib.AbstractContextManager['CaptionFile']):
    """Captions of images on their way into a file. A context manager; leaving its block early loses nothing.

        with CaptionFile(Images(captioner, paths), 'captions.jsonl') as captions:
            for result in captions.results():
                print(result.path)
            captions.finish('jsonl')

    Results of an earlier run are kept as far as the images are the same: by name, size and time of change, or by name
    and row in the same feature matrix. They are kept in whole batches, so that every image is computed in the same
    batch, and the file is the same to the last byte however often the run was stopped.

    Attribute `done`: the number of images that earlier runs have done.

    Args:
        work, output, search: `Images` or `StoredFeatures`; the file; as for `Captioner.caption`.
        processes: Those that share the images; this is process 0. In the others `caption_together` yields nothing.

    Raises:
        InputError: The captioner refuses, a stopped run had another model or search, or the file cannot be written.
    """

    def __init__(self, work: Any, output: str | os.PathLike[str], search: Any = None,
                 processes: Processes | None = None) -> None:
        self._work, self._output = work, os.fspath(output)
        self._search = work.captioner.search(search)
        self._processes = processes or Processes()
        if os.path.isdir(output):
            raise InputError(f'{output}: is a folder; name a file')
        work.caption([], self._search)                  # raises what it refuses before there is a journal
        self._journal = Journal(f'{self._output}.part', {
            'model': _digest(work.captioner.bundles), **work.settings, 'search': type(self._search).__name__,
            **{name.replace('_', '-'): value for name, value in dataclasses.asdict(self._search).items()}})
        # Before any is read: the next run notices an image that changes meanwhile.
        self._stamps = list(map(work.stamp, work.items))
        same = itertools.takewhile(self._is_done, zip(self._journal.rows(), work.items, self._stamps, strict=False))
        self.done = sum(1 for _ in same) // work.batch * work.batch
        self._journal.cut(self.done)

    def _is_done(self, row_item_stamp: tuple[Any, Any, list[Any]]) -> bool:
        row, item, of = row_item_stamp
        return row.get('of') == of and _is_result(row.get('result'), self._work.result(item))

    def results(self) -> Iterator[Result]:
        """Captions the images that are not done; yields the results of all, in order, first those of earlier runs."""
        yield from self._kept()
        found = caption_together(self._work, self._search, self._processes, self.done)
        for of, result in zip(self._stamps[self.done:], found, strict=True):
            self._journal.append({'of': of, 'result': dataclasses.asdict(result)})
            yield result

    def finish(self, format: str, track: Callable[[Any], Iterable[Result]] = iter, **settings: Any) -> None:
        """Writes the file, when `results` has been exhausted, and deletes the journal. InputError if it cannot.

        `format` and `settings` are those of `chainer_caption.report.open_writer`; `track` takes the iterator of results
        and returns it, to show progress."""
        try:
            with atomic_write(self._output, 'w', newline='') as f, open_writer(format, f, **settings) as writer:
                for result in track(self._kept()):
                    writer.write(result)
        except OSError as e:
            raise unwritable(self._output, e) from e
        self._journal.remove()

    def _kept(self) -> Iterator[Result]:
        for row in self._journal.rows():
            result = row['result']
            yield Result(**{**result, 'captions': [Caption(**caption) for caption in result['captions']]})

    def __exit__(self, *exception: object) -> None:
        self._journal.__exit__(*exception)


def caption_together(work: Any, search: Any, processes: Processes, done: int = 0) -> Iterator[Result]:
    """Captions `Images` or `StoredFeatures` by several processes, each of which calls this; yields the results, in
    order, in process 0 alone, which also decides how many are `done`."""
    return processes.map(lambda mine: work.caption(mine, search), work.items, work.batch, done)


def _is_result(found: Any, expected: Result) -> bool:
    """Whether a JSON value is a result for the image of `expected`, which has no captions."""
    return (isinstance(found, dict) and found.keys() == {field.name for field in dataclasses.fields(Result)}
            and all(found[name] == getattr(expected, name) for name in ('path', 'filename', 'image_id'))
            and isinstance(found['error'], str | None) and isinstance(found['captions'], list)
            and isinstance(found['skipped'], str | None)
            and (found['error'] is found['skipped'] is None) == bool(found['captions'])
            and all(isinstance(found[name], float | None) for name in ('familiarity', 'confidence'))
            and all(map(_is_caption, found['captions'])))


def _is_caption(caption: Any) -> bool:
    return (isinstance(caption, dict) and caption.keys() == {field.name for field in dataclasses.fields(Caption)}
            and isinstance(caption['tokens'], list) and all(isinstance(token, str) for token in caption['tokens'])
            and isinstance(caption['log_prob'], float) and isinstance(caption['log_prob_per_token'], float)
            and isinstance(caption['finished'], bool) and caption['tokenizer'] in TOKENIZERS)


def _digest(bundles: list[Any]) -> str:
    words = repr(bundles[0].vocabulary.words).encode(errors='backslashreplace')
    weights = ''.join(arrays_digest(to_arrays(bundle.model)) for bundle in bundles)
    # Rows have the familiarity and the confidence.
    weights += ''.join(arrays_digest(bundle.familiarity.to_arrays()) for bundle in bundles if bundle.familiarity)
    return hashlib.sha256(words + weights.encode()).hexdigest()
