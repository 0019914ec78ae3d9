"""Captions pictures into a file, so that a run which was killed goes on where it was.

While it runs, what is done stands in a journal beside the file, under its name with `.part` behind: a row a picture.
The file itself appears when all is done, and takes the place of an older one only then.
"""
import contextlib
import dataclasses
import hashlib
import itertools
import os

from chainer_caption.captioning.captioner import Caption, Result
from chainer_caption.errors import InputError
from chainer_caption.features.ahead import BATCH
from chainer_caption.parallel import Processes
from chainer_caption.report import open_writer
from chainer_caption.storage.files import replacing, unwritable
from chainer_caption.storage.journal import Journal
from chainer_caption.storage.serializers import arrays_digest, to_arrays


class CaptionFile:
    """Captions of pictures on their way into a file. A context manager; leaving its block early loses nothing.

        with CaptionFile(captioner, paths, 'captions.jsonl') as captions:
            for result in captions.results():
                print(result.path)
            captions.finish('jsonl')

    What was done before is kept as far as the pictures are still the same: their names, sizes and times of change. It
    is kept in whole batches, so that every picture is computed in the company that it always has, and the file is the
    same to the last byte however often its making was stopped.

    Args:
        captioner (Captioner): With a network.
        paths (list of str): The pictures.
        output (str or os.PathLike): The file.
        search (BeamSearch or None): As for `Captioner.caption`.
        processes (Processes or None): Those that share the pictures; this is process 0. The others have
            `caption_together` find nothing.

    Attributes:
        done (int): How many of the pictures were done by earlier runs.

    Raises:
        InputError: An earlier run with another model or another search was stopped and not finished, or nothing can be
            written there.
    """

    def __init__(self, captioner, paths, output, search=None, processes=None):
        self._captioner, self._paths, self._output = captioner, paths, os.fspath(output)
        self._search = captioner.search(search)
        self._processes = processes or Processes()
        if os.path.isdir(output):
            raise InputError(f'{output}: is a folder; name a file')
        self._journal = Journal(f'{self._output}.part', {
            'model': _digest(captioner.bundle), **captioner.extractor.identity,
            'search': type(self._search).__name__,
            **{name.replace('_', '-'): value for name, value in dataclasses.asdict(self._search).items()}})
        same = itertools.takewhile(lambda pair: pair[0].get('of') == _stamp(pair[1]) and _is_result(pair[0], pair[1]),
                                   zip(self._journal.rows(), paths, strict=False))
        self.done = sum(1 for _ in same) // BATCH * BATCH
        self._journal.cut(self.done)

    def results(self):
        """Captions what is not done yet.

        Yields:
            Result: One a picture, in the order of the paths: first those that were done before, then the others as
            they are done.
        """
        yield from self._kept()
        found = caption_together(self._captioner, self._paths, self._search, self._processes, self.done)
        for path, result in zip(self._paths[self.done:], found, strict=True):
            self._journal.append({'of': _stamp(path), 'result': dataclasses.asdict(result)})
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
            with replacing(self._output, 'w', newline='') as f, open_writer(format, f, **settings) as writer:
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


def caption_together(captioner, paths, search, processes, done=0):
    """Captions the pictures of a list, in its order, by several processes.

    Args:
        captioner (Captioner): With a network.
        paths (list of str): The pictures.
        search (BeamSearch): What to caption with.
        processes (Processes): Those that share them, each of which calls this.
        done (int): How many of the pictures need no captions any more; process 0 says it.

    Yields:
        Result: In process 0, one a picture. In the others nothing.
    """
    return processes.map(lambda mine: captioner.caption_files(mine, search), paths, BATCH, done)


def _is_result(row, path):
    result = row.get('result')
    return (isinstance(result, dict) and result.keys() == {field.name for field in dataclasses.fields(Result)}
            and result['path'] == result['filename'] == path and result['image_id'] is None
            and isinstance(result['error'], str | None) and isinstance(result['captions'], list)
            and (result['error'] is None) == bool(result['captions']) and all(map(_is_caption, result['captions'])))


def _is_caption(caption):
    return (isinstance(caption, dict) and caption.keys() == {field.name for field in dataclasses.fields(Caption)}
            and isinstance(caption['tokens'], list) and all(isinstance(token, str) for token in caption['tokens'])
            and isinstance(caption['log_prob'], float) and isinstance(caption['log_prob_per_token'], float)
            and isinstance(caption['finished'], bool))


def _stamp(path):
    # What tells that a picture is the one that was captioned: cheap, and enough to notice a changed folder.
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return [path, status.st_size, status.st_mtime_ns]
    return [path]


def _digest(bundle):
    words = repr(bundle.vocabulary.words).encode(errors='backslashreplace')
    return hashlib.sha256(words + arrays_digest(to_arrays(bundle.model)).encode()).hexdigest()
