"""A table's text, divided into rows of values: separators, quotation marks, and the line of each row.

text → header, rows of values, line on which each row ends.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from reid_core.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# What Excel writes, and reads, as the first line of a file whose separator it should not guess.
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?[,;\t|]*(?:\r\n|\r|\n)', re.IGNORECASE)
# At the beginning of a value: what is within quotation marks, or a blank before them.
_QUOTED_OR_LOOSE = {
    sign: re.compile(rf'(?:^|(?<=[{re.escape(sign)}\r\n]))(?:"[^"]*+(?:""[^"]*+)*+"|( +"))') for sign in SEPARATORS
}


class Rows(NamedTuple):
    """Every row of a text that is not blank."""

    header: list[str]
    rows: list[list[str]]
    lines: list[int]  # of the file, on which each row ends: a value in quotation marks may span several
    num_blank: int  # rows without any value, left out
    separator: str  # one of SEPARATORS
    is_loose: bool  # blanks stand between separators and quotation marks: those after separators are left out


def split_rows(file: Path, text: str, count_known: Callable[[list[str]], int]) -> Rows:
    """Divide a text into rows by the separator that gives its header the most columns that are known.

    Args:
        file: Is named in errors.
        text: Of the whole file.
        count_known: How many of a header's columns are known.

    Raises:
        UserError: If no row holds anything, or a quotation mark is wrong; names the line.
    """
    first = _SEPARATOR_LINE.match(text)
    separators = first[1] if first else "".join(SEPARATORS)
    separator = max(separators, key=lambda sign: count_known(_first_row(text, sign)))
    is_loose = any(match[1] for match in _QUOTED_OR_LOOSE[separator].finditer(text))
    found = [(line, row) for line, row in _read_rows(file, text, separator, is_loose) if not first or line > 1]
    filled = [(line, row) for line, row in found if any(map(str.strip, row))]
    if not filled:
        raise UserError(f"{file}: line 1 is not a header: the file holds nothing but blanks and separators")
    (_, header), *others = filled
    rows, lines = [row for _, row in others], [line for line, _ in others]
    return Rows(header, rows, lines, len(found) - len(filled), separator, is_loose)


def _first_row(text: str, separator: str) -> list[str]:
    """The first row that holds something; [] if there is none, or it cannot be divided by this separator."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        return next((row for row in reader if any(map(str.strip, row))), [])
    except csv.Error:
        return []


def _read_rows(file: Path, text: str, separator: str, is_loose: bool) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line on which each ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=is_loose)
    line = 0
    try:
        for row in reader:
            line = reader.line_num
            yield line, row
    except csv.Error as error:
        raise UserError(
            f"{file}: the row that begins in line {line + 1} cannot be read: {error} (a quotation mark that is not "
            "closed, or one within a value that is not doubled?)"
        ) from error
