"""InputError, the exception for a wrong call or wrong input: the command line shows its one line and exits 2."""
import re

# Control characters, which a terminal obeys, and Unicode's line separators.
_CONTROL = re.compile('[\0-\x1f\x7f-\x9f\u2028\u2029]')

_LONGEST = 2000


def printable(text: str) -> str:
    """Untrusted text as one line that is safe for a terminal: lines are joined, control characters escaped as in Python
    (`'\\x1b'`), and the middle of a very long text is left out."""
    text = ' '.join(re.split('[\r\n]+', text.strip('\r\n')))
    if len(text) > _LONGEST:
        text = f'{text[:_LONGEST // 2]} … {text[-_LONGEST // 2:]}'
    return _CONTROL.sub(lambda match: match[0].encode('unicode_escape').decode('ascii'), text)


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line for the user: the file or field, what is wrong with it and, where that is known, what to do.

    Attributes:
        field: The field or parameter that is wrong, if the message begins with one; the command line shows it as an
            option (`max_length` as `--max-length`).
    """

    field: str | None = None

    def __init__(self, message: str) -> None:
        # A library's message on damaged bytes, or a file name, can have several lines.
        super().__init__(printable(message))

    @classmethod
    def of(cls, field: str, value: object, message: str) -> 'InputError':
        """An error about a field and its value: `InputError.of('max_length', 0, 'must be at least 1')`."""
        error = cls(f'{field} {value}: {message}')
        error.field = field
        return error

    def with_option(self) -> str:
        """The message for the command line: the field as its option."""
        return str(self) if self.field is None else '--' + self.field.replace('_', '-') + str(self)[len(self.field):]
