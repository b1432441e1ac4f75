"""Values of the table, one by one: what is taken off, read as something else, ignored, or refused.

text by column → values by column, None where there is none, and findings.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from reid_core.data.animals import NEW
from reid_core.data.table.columns import COLUMNS, TextTable, strip_blanks
from reid_core.data.table.dates import read_dates
from reid_core.data.table.findings import SHOWN, SHOWN_LETTERS, Finding, make_finding, show_lines, tell_rows
from reid_core.data.table.sides import find_unread
from reid_core.errors import UserError

Values = dict[str, list[str | None]]  # by column
# Characters that move the cursor, begin a line, or turn the direction of writing: no name needs them. Written as the
# characters themselves, so that any regular expressions mean the same by it.
CONTROL = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
SPLITS = {"database": "database", "query": "query", "train": "database", "test": "query"}  # the latter: AnimalCLEF 2026
_control = re.compile(CONTROL)


def read_values(table: TextTable, findings: list[Finding]) -> Values:
    """Values of all `COLUMNS`, None where one is empty; `path` keeps its blanks, which may be the file's.

    Args:
        table: As the file has it.
        findings: What is noticed is added here, so that it is known also after an error.

    Raises:
        UserError: If a value is missing or wrong; names its line.
    """
    file, lines = table.file, table.lines
    texts = {name: table.columns.get(name, [""] * len(lines)) for name in COLUMNS}
    texts, found = _strip(file.name, texts, lines)
    findings += found
    for name, given in texts.items():
        refuse(file, lines, given, lambda text: bool(_control.search(text)), f"{name} holds a control character")
    for name in ("identity", "dataset"):
        texts[name], found = _compose(file.name, name, texts, lines)
        findings += found
    texts["split"], found = _read_splits(file.name, texts["split"], lines)
    findings += found
    _check_values(file, texts, lines)
    findings += _find_ignored_identities(file.name, texts, lines)
    dates, found = read_dates(file.name, texts["date"], lines)
    findings += [*found, *find_unread(file.name, texts["orientation"], lines)]
    values: Values = {name: [text or None for text in texts[name]] for name in COLUMNS} | {"date": dates}
    is_query = [split == "query" for split in texts["split"]]
    values["identity"] = [None if query else name for name, query in zip(values["identity"], is_query, strict=True)]
    return values


def refuse(
    file: Path, lines: Sequence[int], values: Sequence[str], is_wrong: Callable[[str], bool], problem: str
) -> None:
    """Raise UserError if any value is wrong, with line and value of the first few and the number of all."""
    rows = [row for row, value in enumerate(values) if is_wrong(value)]
    if rows:
        refuse_rows(file, lines, rows, problem, lambda row: shorten(values[row]))


def refuse_rows(
    file: Path, lines: Sequence[int], rows: Sequence[int], problem: str, show: Callable[[int], str]
) -> None:
    """Raise UserError about some rows, with line and `show(row)` of the first few and the number of all."""
    shown = [f"line {lines[row]}" + (f": {show(row)}" if show(row) else "") for row in rows[:SHOWN]]
    more = ", ..." if len(rows) > SHOWN else ""
    raise UserError(f"{file}: {problem} ({len(rows)} row{'s' * (len(rows) > 1)}) in {', '.join(shown)}{more}")


def shorten(value: str) -> str:
    """A value as an error shows it: in quotation marks, by its beginning; "" of nothing."""
    return f"{value!r:.{SHOWN_LETTERS}}" if value else ""


def check_unique(file: Path, ids: Sequence[str | None], lines: Sequence[int]) -> None:
    """Raise UserError if an image_id is given twice; names both lines."""
    first: dict[str | None, int] = {}
    for row, image_id in enumerate(ids):
        before = first.setdefault(image_id, row)
        if before != row:
            raise UserError(
                f"{file}: image_id {shorten(image_id or '')} is given twice, in lines {lines[before]} and {lines[row]}"
            )


def _strip(where: str, texts: dict[str, list[str]], lines: list[int]) -> tuple[dict[str, list[str]], list[Finding]]:
    """Take blanks off the ends of values, other than of paths; a finding for identities, and one for all others."""
    blanks = {name: [strip_blanks(text) for text in texts[name]] for name in COLUMNS if name != "path"}
    stripped = {"path": texts["path"]} | blanks
    findings = []
    for names in ([name for name in blanks if name != "identity"], ["identity"]):
        rows_of = {name: [row for row, text in enumerate(texts[name]) if text != stripped[name][row]] for name in names}
        counts = Counter({name: len(rows) for name, rows in rows_of.items() if rows})
        shown = [(name, row) for name, rows in rows_of.items() for row in rows][:SHOWN]
        if shown:
            what = f"{counts.total()} value(s) with blanks at an end; taken off ({_list_counts(counts)})"
            examples = [f"{name} in {show_lines(lines, texts[name], [row])[0]}" for name, row in shown]
            tells = tell_rows(stripped["image_id"], [row for name, row in shown if name == "identity"])
            findings.append(make_finding(where, what, examples, counts.total(), tells=tells))
    return stripped, findings


def _compose(where: str, name: str, texts: dict[str, list[str]], lines: list[int]) -> tuple[list[str], list[Finding]]:
    """One spelling of accents (NFC) in a column: macOS writes them as signs of their own, which nobody sees."""
    composed = [unicodedata.normalize("NFC", text) for text in texts[name]]
    rows = [row for row, text in enumerate(texts[name]) if text != composed[row]]
    if not rows:
        return composed, []
    what = f"{len(rows)} value(s) of {name} with accents as signs of their own; read as one sign (Unicode NFC)"
    tells = tell_rows(texts["image_id"], rows) if name == "identity" else []
    return composed, [make_finding(where, what, show_lines(lines, composed, rows), len(rows), tells=tells)]


def _read_splits(where: str, texts: list[str], lines: list[int]) -> tuple[list[str], list[Finding]]:
    """AnimalCLEF 2026's words, and any capitals."""
    read = [SPLITS.get(text.casefold(), text) for text in texts]
    counts = Counter(f"{text!r} as {new}" for text, new in zip(texts, read, strict=True) if text != new)
    if not counts:
        return read, []
    return read, [make_finding(where, f"split: read {_list_counts(counts)}", [], counts.total())]


def _list_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(SHOWN))


def _check_values(file: Path, texts: dict[str, list[str]], lines: list[int]) -> None:
    ids = texts["image_id"]
    for name in ("image_id", "path", "dataset"):
        refuse(file, lines, texts[name], lambda text: not strip_blanks(text), f"{name} is empty")
    check_unique(file, ids, lines)
    wrong = "split is not database or query (nor train or test, read as these)"
    refuse(file, lines, texts["split"], lambda split: split not in ("database", "query"), wrong)
    pairs = list(enumerate(zip(texts["split"], texts["identity"], strict=True)))
    unnamed = [row for row, (split, name) in pairs if split == "database" and not name]
    reserved = [row for row, (split, name) in pairs if split == "database" and name == NEW]
    if unnamed:
        wrong = "database row without identity (to be named: split=query); its image_id"
        refuse_rows(file, lines, unnamed, wrong, lambda row: shorten(ids[row]))
    if reserved:
        wrong = f"identity {NEW!r} is reserved; image_id"
        refuse_rows(file, lines, reserved, wrong, lambda row: shorten(ids[row]))


def _find_ignored_identities(where: str, texts: dict[str, list[str]], lines: list[int]) -> list[Finding]:
    pairs = enumerate(zip(texts["split"], texts["identity"], strict=True))
    rows = [row for row, (split, name) in pairs if split == "query" and name]
    if not rows:
        return []
    what = f"{len(rows)} query row(s) have an identity, which is not read"
    tells = tell_rows(texts["image_id"], rows)
    return [make_finding(where, what, show_lines(lines, texts["identity"], rows), len(rows), tells=tells)]
