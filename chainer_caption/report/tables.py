"""Tables of text for a terminal."""
from chainer_caption.errors import printable


def table(rows, header=None):
    """Rows of text with their columns aligned, the first to the left and the others to the right.

    Args:
        rows (list of list of str): The cells.
        header (list of str or None): The names of the columns; a table without is as it comes.

    Returns:
        str: Lines, each with its end.
    """
    lines = [[printable(cell) for cell in line] for line in ([header] if header else []) + rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ''.join('  '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() + '\n'
                   for line in lines)
