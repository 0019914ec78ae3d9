"""The one exception that means "the call or its input is wrong": the command line shows it as one line and exits 2."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line: it names the file or option, says what is wrong with it and, where that is known, what to
    do next. It is meant to be read by the user as it stands.
    """

    def __init__(self, message):
        # Neither what a library says of damaged bytes nor the name of a file need be one line.
        super().__init__(' '.join(message.splitlines()))
