"""Tables of text for people, whose columns are as wide as their longest cell.

rows of cells → lines, the first column to the left and all others to the right.
"""

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the headings, as lines.

    Args:
        rows: Each as long as the first.

    Example:
        >>> print(format_table([["group", "queries"], ["cow", "8"], ["salamander", "12"]]))
        group       queries
        cow               8
        salamander       12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, [row[0].ljust(widths[0]), *row[1:]], widths)) for row in rows)
