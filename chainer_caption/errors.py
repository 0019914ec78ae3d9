"""The one exception that means "the call or its input is wrong": the command line shows it as one line and exits 2."""
import re

# A terminal obeys these. What else ends a line for somebody is among them.
_CONTROL = re.compile('[\0-\x1f\x7f-\x9f\u2028\u2029]')

_LONGEST = 2000


def printable(text):
    """`text`, which may come from strangers, as one line that a terminal can be trusted with: lines are joined, control
    characters escaped as in Python (`'\\x1b'`), and the middle of what is endless is left out."""
    text = ' '.join(re.split('[\r\n]+', text.strip('\r\n')))
    if len(text) > _LONGEST:
        text = f'{text[:_LONGEST // 2]} … {text[-_LONGEST // 2:]}'
    return _CONTROL.sub(lambda match: match[0].encode('unicode_escape').decode('ascii'), text)


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line: it names the file or option, says what is wrong with it and, where that is known, what to
    do next. It is meant to be read by the user as it stands.
    """

    def __init__(self, message):
        # Neither what a library says of damaged bytes nor the name of a file need be one line.
        super().__init__(printable(message))
