"""A table's columns: the rows of a file under the names that the program knows, and what of it is left out.

file → values by column, line of each row, findings.
"""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reid_core.data.table.decoding import read_text
from reid_core.data.table.findings import Finding, logged_with_error, make_finding
from reid_core.data.table.rows import SEPARATORS, Rows, split_rows
from reid_core.errors import UserError
from reid_core.files.escape import escape_line

COLUMNS = ("image_id", "identity", "path", "date", "orientation", "species", "split", "dataset")
# Blanks of every width and signs without any, which no value needs at its ends, and which nobody sees there.
BLANKS = (
    " \t\r\n\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
    "\u200b\u2060\ufeff"
)
# What other tables call these columns; only shown to a person, never taken for them.
_OTHER_NAMES = {
    "image_id": "id image photo photo_id picture media_id annotation_id",
    "identity": "identities individual individual_id animal animal_id name label",
    "path": "file filename file_name filepath file_path image_path photo photograph",
    "date": "datetime date_time date_taken taken timestamp time captured encounter_date",
    "orientation": "side sides viewpoint view flank pose",
    "split": "set subset part partition",
    "dataset": "data_set group species_group collection",
}
_BOX = re.compile(r"(bbox|box|bounding|crop).*|[xy]_?(min|max|[0-9])|(top|bottom)_(left|right)_?[xy]")


@dataclass(frozen=True)
class TextTable:
    """What a file holds, as text; columns without a name, and rows without any value, are left out."""

    file: Path
    columns: dict[str, list[str]]  # by name, in the file's order; "" where a value is empty
    lines: list[int]  # of the file, on which each row ends
    findings: list[Finding]


def read_table(file: Path, required: Sequence[str]) -> TextTable:
    """Read a table of text: separated by commas, semicolons, tabs or bars; UTF-8, or UTF-16 with its mark.

    Args:
        file: With a header. Names of `COLUMNS` may have other capitals, and blanks or hyphens for the underscore.
        required: Columns that must be there; where any must, a row must too.

    Raises:
        UserError: If it cannot be read, has no rows, lacks a column or has one twice, or a row has too few or too many
            values; names the line, and the remedy.
    """
    text, encoding = read_text(file)
    parsed = split_rows(file, text, partial(_count_known, required=required))
    findings = _describe_reading(file, encoding, parsed)
    with logged_with_error(findings):
        names = _name_columns(file, parsed.header, required, findings)
        if required and not parsed.rows:
            raise UserError(f"{file}: only a header, no rows")
        rows = _even_rows(file, parsed, names, required, findings)
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names) if name}
    findings += _find_nameless(file, names, rows, parsed.lines)
    return TextTable(file, columns, parsed.lines, findings)


def strip_blanks(text: str) -> str:
    """A text without the blanks at its ends, those of no width included."""
    return text.strip(BLANKS)


def _fold(name: str) -> str:
    """A column's name for comparisons."""
    return re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFKC", strip_blanks(name)).casefold())


def _count_known(header: list[str], required: Sequence[str]) -> int:
    folded = set(map(_fold, header))
    return sum(name in folded for name in required) + sum(name in folded for name in COLUMNS)


def _describe_reading(file: Path, encoding: str, parsed: Rows) -> list[Finding]:
    """How the file was read, if it is not plain; and rows without a value."""
    findings, num_rows = [], len(parsed.rows)
    if encoding != "UTF-8" or parsed.separator != "," or parsed.is_loose:
        blanks = " and blanks" if parsed.is_loose else ""
        how = f"read as {encoding} text with {SEPARATORS[parsed.separator]}{blanks} between values"
        findings.append(make_finding(file.name, how, [], num_rows))
    if parsed.num_blank:
        findings.append(make_finding(file.name, f"{parsed.num_blank} empty row(s) left out", [], parsed.num_blank))
    return findings


def _name_columns(file: Path, header: list[str], required: Sequence[str], findings: list[Finding]) -> list[str]:
    """Name of each column, "" where it has none; adds a finding if names were changed."""
    names = [strip_blanks(name) for name in header]
    for wanted in COLUMNS:
        alike = [at for at, name in enumerate(names) if _fold(name) == wanted]
        if wanted not in names and len(alike) == 1:
            names[alike[0]] = wanted
    missing = [name for name in required if name not in names]
    if missing:
        raise UserError(
            f"{file}: missing column(s) {', '.join(missing)}; it has: {escape_line(', '.join(header))[:1000]}"
            + _guess_columns(missing, names)
        )
    repeated = sorted(name for name, count in Counter(names).items() if count > 1 and name in COLUMNS)
    if repeated:
        raise UserError(f"{file}: column(s) given twice: {', '.join(repeated)}")
    changed = [f"{old!r} is {new}" for old, new in zip(header, names, strict=True) if old != new]
    if changed:
        what = f"{len(changed)} name(s) of columns read in the program's spelling"
        findings.append(make_finding(file.name, what, changed))
    return _tell_apart(names)


def _tell_apart(names: list[str]) -> list[str]:
    """Names without repetition: of columns of one name, which are not used, all but the first get their numbers."""
    apart: list[str] = []
    for number, name in enumerate(names, start=1):
        while name and (name in apart or (name != names[number - 1] and name in names)):
            name = f"{name} (column {number})"
        apart.append(name)
    return apart


def _guess_columns(missing: Sequence[str], names: Sequence[str]) -> str:
    """Columns that may be meant by those that are missing."""
    guesses = []
    for wanted in missing:
        others = _OTHER_NAMES.get(wanted, "").split()
        alike = [name for name in names if _fold(name) in (wanted, *others)]
        alike += [name for name in names if name not in alike and difflib.get_close_matches(_fold(name), [wanted])]
        guesses += [f"{escape_line(name)[:100]} → {wanted}" for name in alike if name not in COLUMNS]
    return f" (meant? rename: {', '.join(guesses[:8])})" if guesses else ""


def _even_rows(
    file: Path, parsed: Rows, names: list[str], required: Sequence[str], findings: list[Finding]
) -> list[list[str]]:
    """Rows as long as the header; values at the end may lack that need not be there, or be too many if they are empty.

    Excel writes no separators for empty values at the end of a row, from the 17th row on, and some for columns that
    once held something.
    """
    width = len(names)
    shortest = 1 + max((at for at, name in enumerate(names) if name in required), default=0)
    rows, padded = [], []
    for row, line in zip(parsed.rows, parsed.lines, strict=True):
        if len(row) < shortest or any(map(strip_blanks, row[width:])):
            raise UserError(f"{file}: line {line} has {len(row)} values, the header has {width} columns")
        if len(row) < width and any(names[len(row) :]):
            padded.append(f"line {line}")
        rows.append(row if len(row) == width else (row + [""] * width)[:width])
    if padded:
        what = f"{len(padded)} row(s) are shorter than the header; the values at their end taken as empty"
        findings.append(make_finding(file.name, what, padded))
    return rows


def _find_nameless(file: Path, names: list[str], rows: list[list[str]], lines: list[int]) -> list[Finding]:
    """Columns without a name: empty ones, and those that hold something."""
    nameless = [at for at, name in enumerate(names) if not name]
    held = {}
    for at in nameless:
        first = next((row for row, values in enumerate(rows) if strip_blanks(values[at])), None)
        if first is not None:
            held[at] = f"column {at + 1}, line {lines[first]}"  # its value may be an animal's name
    findings = []
    if len(nameless) > len(held):
        num_empty = len(nameless) - len(held)
        findings.append(make_finding(file.name, f"{num_empty} empty column(s) without a name left out", [], num_empty))
    if held:
        what = f"{len(held)} column(s) without a name are not used, though they hold values"
        findings.append(make_finding(file.name, what, [*held.values()]))
    return findings


def find_unused(table: TextTable) -> list[Finding]:
    """Columns that the program does not know; those that look like boxes apart."""
    unused = [name for name in table.columns if name not in COLUMNS]
    boxes = [name for name in unused if _BOX.fullmatch(_fold(name))]
    others = [name for name in unused if name not in boxes]
    findings = []
    if boxes:
        what = f"{len(boxes)} column(s) of bounding boxes not used: photographs are taken whole, crop them first"
        findings.append(make_finding(table.file.name, what, [repr(name) for name in boxes]))
    if others:
        hints = {
            other: name for name, words in _OTHER_NAMES.items() for other in words.split() if name not in table.columns
        }
        shown = [repr(name) + (f" ({hints[_fold(name)]}?)" if _fold(name) in hints else "") for name in others]
        findings.append(make_finding(table.file.name, f"{len(others)} column(s) not used", shown))
    return findings
