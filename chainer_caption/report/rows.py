"""Results as plain text, JSON, CSV and TSV, written row by row."""
import contextlib
import csv
import json
import math
import os
import re
from typing import Any

from chainer_caption.errors import InputError
from chainer_caption.report.html import well_formed
from chainer_caption.storage import files

# Characters that break a line or its encoding: control characters, Unicode's line separators, and the lone surrogates
# that stand for the bytes of a file name that is not UTF-8.
_NOT_IN_CELLS = re.compile('[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]')
_UNPRINTABLE = re.compile('[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]')
_NOT_IN_JSON_LINES = re.compile('[\x7f-\x9f\u2028\u2029\ud800-\udfff]')

# The beginning of a formula, also in East Asian width: at the start of a cell, or behind what a spreadsheet may be set
# to take as a separator.
_FORMULA = re.compile('(^|[;|\t\r\n] *)([=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])')


_TRUST = 'familiarity', 'confidence'


def known_trust(of: Any) -> dict[str, float]:
    """The familiarity and the confidence of a result or a prediction, where they are known."""
    return {name: value for name in _TRUST if (value := getattr(of, name)) is not None}


def one_line(text: str) -> str:
    """`text` on one line: backslashes, control characters and line ends are escaped as in Python, `'\\n'`."""
    return _UNPRINTABLE.sub(_backslash_escape, text)


def row_of(result: Any) -> dict[str, Any]:
    """The row of a result as a dict: `{'filename', 'image_id'?, 'familiarity'?, 'confidence'?, 'captions', 'skipped'?}`
    or `{'filename', 'error'}`. A score that is not finite becomes None, because JSON has no infinity."""
    if result.error is not None:
        return {'filename': result.filename, 'error': result.error}
    image_id = {} if result.image_id is None else {'image_id': int(result.image_id)}
    scores = 'log_prob', 'log_prob_per_token'
    captions = [{'caption': caption.text, 'tokens': list(caption.tokens),
                 **{name: files.json_number(float(getattr(caption, name))) for name in scores},
                 'finished': bool(caption.finished)} for caption in result.captions]
    skipped = {} if result.skipped is None else {'skipped': result.skipped}
    return {'filename': result.filename, **image_id, **known_trust(result), 'captions': captions, **skipped}


def json_line(value: Any) -> str:
    """A JSON value on one line, by any reader's idea of lines; a float that is not finite is a ValueError."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _NOT_IN_JSON_LINES.sub(lambda match: f'\\u{ord(match[0]):04x}', text) + '\n'


class Writer(contextlib.AbstractContextManager['Writer']):
    """Base of the writers of text streams, which are context managers; for `target` see `open_writer`."""

    def __init__(self, target: Any) -> None:
        self._resources = contextlib.ExitStack()
        try:
            self._stream = target if hasattr(target, 'write') else self._resources.enter_context(self._open(target))
        except OSError as e:
            raise files.unwritable(target, e) from e

    def _open(self, path: Any) -> Any:
        return open(path, 'w', encoding='utf-8', newline='')

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def write(self, result: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Ends the output, and closes the file if the writer opened it."""
        self._resources.close()

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is None:
            self.close()
        else:
            self._resources.__exit__(*exception)


class TextWriter(Writer):
    """A line `# filename`, then one caption a line, best first; in place of captions a line `! reason` on error, and
    `! skipped: reason` where they are left out.

    Backslashes and line breaks within a name are escaped (`one_line`). With `scores` each caption is followed by its
    probability, ` (p=0.040413)`, as in im2txt."""

    def __init__(self, target: Any, scores: bool = False) -> None:
        super().__init__(target)
        self._scores = scores

    def write(self, result: Any) -> None:
        lines = [one_line(c.text) + (f' (p={math.exp(c.log_prob):.6f})' if self._scores else '')
                 for c in result.captions] or ['! ' + one_line(result.error or f'skipped: {result.skipped}')]
        self._put(''.join(line + '\n' for line in ['# ' + one_line(result.filename), *lines]))


class JsonLinesWriter(Writer):
    """One JSON object a line, see `row_of`. UTF-8; a name that is not UTF-8 has escaped lone surrogates in place of its
    bytes: `os.fsencode(json.loads(line)['filename'])` is the name."""

    def write(self, result: Any) -> None:
        self._put(json_line(row_of(result)))


class JsonWriter(Writer):
    """One JSON list with the objects of `JsonLinesWriter`, each on a line."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self._before = '[\n'

    def write(self, result: Any) -> None:
        self._put(self._before + json_line(row_of(result)).rstrip('\n'))
        self._before = ',\n'

    def close(self) -> None:
        with self._resources:
            self._put('[]\n' if self._before == '[\n' else '\n]\n')


class MetadataWriter(Writer):
    """One JSON object a line, `{"file_name", "text"}` with the best caption: the `metadata.jsonl` of Hugging Face's
    ImageFolder. Images without captions are left out. Images are named relative to `folder`, the file's folder."""

    def __init__(self, target: Any, folder: str = '.') -> None:
        super().__init__(target)
        self._folder = folder

    def write(self, result: Any) -> None:
        if result.captions:
            self._put(json_line({'file_name': metadata_name(result.path or result.filename, self._folder),
                                 'text': well_formed(result.captions[0].text)}))


def metadata_name(path: str, folder: str) -> str:
    """The name of an image in a folder's `metadata.jsonl`; InputError if it is not below the folder, or not UTF-8."""
    name = os.path.relpath(path, folder)
    if name.split(os.sep)[0] == os.pardir:
        raise InputError(f'{path}: not below {folder}, and a metadata.jsonl names images below its own folder; write '
                         'it to the folder of the images with -o FOLDER/metadata.jsonl')
    if well_formed(name) != name:
        raise InputError(f'{path}: a name that is not UTF-8, which a metadata.jsonl cannot hold; rename the image')
    return name


class CsvWriter(Writer):
    """One caption a row under the columns of `COLUMNS`; an image without captions has one row, with its `error` or why
    it is `skipped`. `familiarity` and `confidence` are the image's, in each of its rows.

    Rows are those of RFC 4180. No spreadsheet runs a cell as a formula (OWASP, "CSV Injection"): a name that would
    begin one gets `./` in front, which names the same file to every program, and a row is quoted in all cells where
    another separator would make a formula of a part of its name. In captions and reasons an apostrophe is put before
    what would be a formula. Characters that UTF-8 cannot hold, and control characters, are escaped as by `one_line`.
    Without `header` the row of column names is left out, to continue a file."""

    COLUMNS = ('filename', 'rank', 'caption', 'log_prob', 'log_prob_per_token', 'finished', 'error', *_TRUST, 'skipped')
    delimiter = ','

    def __init__(self, target: Any, header: bool = True) -> None:
        super().__init__(target)
        self._plain = csv.writer(self._stream, delimiter=self.delimiter)
        self._quoted = csv.writer(self._stream, delimiter=self.delimiter, quoting=csv.QUOTE_ALL)
        if header:
            with contextlib.ExitStack() as closing:     # closes the file if the header cannot be written
                closing.push(self._resources)
                self._plain.writerow(self.COLUMNS)
                self._stream.flush()
                closing.pop_all()

    def write(self, result: Any) -> None:
        filename = _NOT_IN_CELLS.sub(_backslash_escape, result.filename)
        if _FORMULA.match(filename):
            filename = os.path.join(os.curdir, filename)
        known = known_trust(result)
        trust = [known.get(name, '') for name in _TRUST]
        rows: list[list[Any]] = [
            [filename, rank, _cell(caption.text), float(caption.log_prob), float(caption.log_prob_per_token),
             'true' if caption.finished else 'false', '', *trust, ''] for rank, caption in enumerate(result.captions, 1)
        ] or [[filename, *[''] * 5, _cell(result.error or ''), *trust, result.skipped or '']]
        # A quoted first column is one cell by any separator; of the others that is not sure.
        (self._quoted if _FORMULA.search(filename) else self._plain).writerows(rows)
        self._stream.flush()


class TsvWriter(CsvWriter):
    """As `CsvWriter`, with tabs between the cells."""
    delimiter = '\t'


def _cell(text: str) -> str:
    return _FORMULA.sub(r"\1'\2", _NOT_IN_CELLS.sub(_backslash_escape, text))


def _backslash_escape(match: re.Match[str]) -> str:
    return match[0].encode('unicode_escape').decode('ascii')
