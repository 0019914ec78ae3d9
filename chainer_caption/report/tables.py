"""Tables of text for a terminal."""
from collections.abc import Sequence

from chainer_caption.errors import printable


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Lines of text whose columns are aligned, the first to the left and the others to the right, below a header."""
    lines = [[printable(cell) for cell in line] for line in ([header] if header else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ''.join('  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() + '\n'
                   for line in lines)
