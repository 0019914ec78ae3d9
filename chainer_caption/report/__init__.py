"""Captions as text, JSON, CSV, TSV, an HTML gallery, or files beside their images; pages on training and evaluation.

A writer takes one result at a time and writes it at once, so that a folder of any size needs little memory and a run
that is stopped leaves the rows that it has written (a gallery replaces its file only when complete)::

    with open_writer('html', 'gallery.html', title='Holiday') as writer:
        for result in captioner.caption('holiday/'):
            writer.write(result)

A *result* is any object with these attributes (`chainer_caption.captioning.results.Result` is one):

- ``path`` (str or None): where the image can be opened;
- ``filename`` (str): the name that is shown and written;
- ``image_id`` (int or None): the ``imgid`` in a dataset;
- ``error`` (str or None): one line saying why there are no captions;
- ``captions`` (list): best first; empty or None beside an error.

A caption has ``text`` (str), ``tokens`` (list of str), ``log_prob`` and ``log_prob_per_token`` (float, nats) and
``finished`` (bool: it ended with ``</S>`` and not at the length limit)."""
import os
from typing import Any, TextIO

from chainer_caption.report import rows
from chainer_caption.report.gallery import GalleryWriter

__all__ = ['WRITERS', 'open_writer']

WRITERS: dict[str, Any] = {'text': rows.TextWriter, 'jsonl': rows.JsonLinesWriter, 'json': rows.JsonWriter,
                           'csv': rows.CsvWriter, 'tsv': rows.TsvWriter, 'html': GalleryWriter,
                           'metadata': rows.MetadataWriter}


def open_writer(format: str, target: str | os.PathLike[str] | TextIO, **settings: Any) -> rows.Writer:
    """A writer of results: an object with `write(result)` and `close()`.

    It is a context manager. An exception closes it as well, but leaves no incomplete gallery behind.

    Args:
        format: `'text'`, `'jsonl'`, `'json'`, `'csv'`, `'tsv'`, `'html'` or `'metadata'`.
        target: A path, which is created or replaced, or an open text file in UTF-8, which is left open.
        **settings: Those of the format's class.

    Raises:
        chainer_caption.errors.InputError: The path cannot be written.
    """
    return WRITERS[format](target, **settings)
