"""Results as plain text, JSON lines and CSV, written row by row."""
import contextlib
import csv
import json
import math
import os
import re

from chainer_caption.errors import InputError
from chainer_caption.report.html import well_formed
from chainer_caption.storage import files

# What would break a line or its encoding: control characters (a terminal obeys some of them), Unicode's own line ends,
# and the lone surrogates by which Python carries the bytes of a file name that is not UTF-8.
_NOT_IN_CELLS = re.compile('[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]')
_UNPRINTABLE = re.compile('[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]')
_NOT_IN_JSON_LINES = re.compile('[\x7f-\x9f\u2028\u2029\ud800-\udfff]')


# How a formula begins, also in East Asian width.
_FORMULA = ('=', '+', '-', '@', '\t', '\r', '\n', '\uff1d', '\uff0b', '\uff0d', '\uff20')


def one_line(text):
    """`text` with backslashes and whatever would end its line escaped as in Python, `'\\n'` or `'\\udcff'`."""
    return _UNPRINTABLE.sub(_backslash_escape, text)


def row_of(result):
    """The row of a result as a dict: `{'filename', 'image_id'?, 'captions'}` or `{'filename', 'error'}`.

    A score that is not finite becomes None, because JSON knows no infinity.
    """
    if result.error is not None:
        return {'filename': result.filename, 'error': result.error}
    image_id = {} if result.image_id is None else {'image_id': int(result.image_id)}
    captions = [{'caption': caption.text, 'tokens': list(caption.tokens),
                 'log_prob': files.json_number(float(caption.log_prob)),
                 'log_prob_per_token': files.json_number(float(caption.log_prob_per_token)),
                 'finished': bool(caption.finished)} for caption in result.captions]
    return {'filename': result.filename, **image_id, 'captions': captions}


def json_line(value):
    """A JSON value as a line of its own, whoever reads it; a float that is not finite is a ValueError."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _NOT_IN_JSON_LINES.sub(lambda match: f'\\u{ord(match[0]):04x}', text) + '\n'


class Writer:
    """What the writers share: a text stream, opened here or lent by the caller, and a block to close it.

    Args:
        target (str, os.PathLike or text file): See `chainer_caption.report.open_writer`.
    """

    def __init__(self, target):
        self._resources = contextlib.ExitStack()
        try:
            self._stream = target if hasattr(target, 'write') else self._resources.enter_context(self._open(target))
        except OSError as e:
            raise files.unwritable(target, e) from e

    def _open(self, path):
        return open(path, 'w', encoding='utf-8', newline='')

    def _put(self, text):
        self._stream.write(text)
        self._stream.flush()

    def write(self, result):
        """Writes one result."""
        raise NotImplementedError

    def close(self):
        """Ends the output, and closes the file if the writer opened it."""
        self._resources.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if exception[0] is None:
            self.close()
        else:
            self._resources.__exit__(*exception)


class TextWriter(Writer):
    """A line `# filename`, then one caption a line, best first; in place of captions a line `! reason` on error.

    Backslashes and line breaks within a name are escaped (`one_line`), so that every row stays on its line.

    Args:
        target: See `Writer`.
        scores (bool): Whether each caption is followed by its probability, ` (p=0.040413)`, as im2txt printed it.
    """

    def __init__(self, target, scores=False):
        super().__init__(target)
        self._scores = scores

    def write(self, result):
        if result.error is not None:
            lines = ['! ' + one_line(result.error)]
        else:
            lines = [one_line(caption.text) + self._score(caption) for caption in result.captions]
        self._put(''.join(line + '\n' for line in ['# ' + one_line(result.filename), *lines]))

    def _score(self, caption):
        return f' (p={math.exp(caption.log_prob):.6f})' if self._scores else ''


class JsonLinesWriter(Writer):
    """One JSON object a line, see `row_of`. UTF-8; the bytes of a name that is not UTF-8 are kept as Python keeps them,
    as lone surrogates (escaped): `os.fsencode(json.loads(line)['filename'])` is the name."""

    def write(self, result):
        self._put(json_line(row_of(result)))


class MetadataWriter(Writer):
    """One JSON object a line, `{"file_name", "text"}` with the best caption: the `metadata.jsonl` of Hugging Face's
    ImageFolder. Images without captions are left out.

    Args:
        target: See `Writer`.
        folder (str): Where the file lies or will lie; images are named from there.
    """

    def __init__(self, target, folder='.'):
        super().__init__(target)
        self._folder = folder

    def write(self, result):
        """Writes one result.

        Raises:
            InputError: As `metadata_name`.
        """
        if result.error is None:
            self._put(json_line({'file_name': metadata_name(result.path or result.filename, self._folder),
                                 'text': well_formed(result.captions[0].text)}))


def metadata_name(path, folder):
    """What a `metadata.jsonl` in a folder calls an image.

    Raises:
        InputError: It cannot, because the image is not below that folder, or its name is no text.
    """
    name = os.path.relpath(path, folder)
    if name.split(os.sep)[0] == os.pardir:
        raise InputError(f'{path}: not below {folder}, and a metadata.jsonl names images below its own folder; write '
                         'it to the folder of the images with -o FOLDER/metadata.jsonl')
    if well_formed(name) != name:
        raise InputError(f'{path}: a name that is not UTF-8, which a metadata.jsonl cannot hold; rename the image')
    return name


class CsvWriter(Writer):
    """One caption a row under the columns of `COLUMNS`; an image without captions has one row, with its `error`.

    Rows are those of RFC 4180. A name, caption or reason that a spreadsheet would run as a formula is preceded by an
    apostrophe, which makes it text (OWASP, "CSV Injection"); what UTF-8 cannot hold, and what a terminal would obey, is
    escaped as by `one_line`.

    Args:
        target: See `Writer`.
        header (bool): Whether to write the row of column names first; False to go on with a file begun before.
    """

    COLUMNS = ('filename', 'rank', 'caption', 'log_prob', 'log_prob_per_token', 'finished', 'error')

    def __init__(self, target, header=True):
        super().__init__(target)
        self._csv = csv.writer(self._stream)
        if header:
            with contextlib.ExitStack() as closing:     # a file that takes no header is left to nobody else
                closing.push(self._resources)
                self._csv.writerow(self.COLUMNS)
                self._stream.flush()
                closing.pop_all()

    def write(self, result):
        filename = _cell(result.filename)
        if result.error is not None:
            self._csv.writerow([filename, *[''] * 5, _cell(result.error)])
        else:
            self._csv.writerows(
                [filename, rank, _cell(caption.text), float(caption.log_prob), float(caption.log_prob_per_token),
                 'true' if caption.finished else 'false', '']
                for rank, caption in enumerate(result.captions, 1))
        self._stream.flush()


def _cell(text):
    text = _NOT_IN_CELLS.sub(_backslash_escape, text)
    return "'" + text if text.startswith(_FORMULA) else text


def _backslash_escape(match):
    return match[0].encode('unicode_escape').decode('ascii')
