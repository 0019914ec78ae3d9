"""What people look at: captions as text, JSON lines, CSV, an HTML gallery, or beside their images.

A writer takes one result at a time and puts it on the disk before the next one comes, so that a folder of any size is
reported in little memory and a run that is stopped leaves what it had done (of the gallery, which replaces its file
only when complete, nothing)::

    with open_writer('html', 'gallery.html', title='Holiday') as writer:
        for result in captioner.caption('holiday/'):
            writer.write(result)

A *result* is any object with these attributes (`chainer_caption.captioning.results.Result` is one):

===================  =====================  ============================================================
``path``             str or None            where the image can be opened; None where there is none
``filename``         str                    the name that is shown and written
``image_id``         int or None            the ``imgid`` in a dataset
``error``            str or None            one line saying why there are no captions
``captions``         list                   best first; empty or None beside an error
===================  =====================  ============================================================

and a caption has ``text`` (str), ``tokens`` (list of str), ``log_prob`` and ``log_prob_per_token`` (float, nats) and
``finished`` (bool: it ended by itself and not at the length limit).
"""
from chainer_caption.report.gallery import GalleryWriter
from chainer_caption.report.rows import CsvWriter, JsonLinesWriter, MetadataWriter, TextWriter

__all__ = ['WRITERS', 'CsvWriter', 'GalleryWriter', 'JsonLinesWriter', 'MetadataWriter', 'TextWriter', 'open_writer']

WRITERS = {'text': TextWriter, 'jsonl': JsonLinesWriter, 'csv': CsvWriter, 'html': GalleryWriter,
           'metadata': MetadataWriter}


def open_writer(format, target, **settings):
    """A writer of results in one of the formats of `WRITERS`.

    Args:
        format (str): `'text'`, `'jsonl'`, `'csv'`, `'html'` or `'metadata'`.
        target (str, os.PathLike or text file): Where to write. A path is created or replaced; an open file, which must
            take UTF-8, is written where it stands and left open.
        **settings: Those of the format's class.

    Returns:
        An object with `write(result)` and `close()`, and a context manager. Leaving its block by an exception closes
        it as well, but leaves no half gallery behind.

    Raises:
        chainer_caption.errors.InputError: The path cannot be written.
    """
    return WRITERS[format](target, **settings)
