"""The data set's metadata, read and checked once.

metadata.csv and photographs → one Arrow table, one row per image, strings only (paper §3.1, AnimalCLEF25's layout).
Row i of the table is row i of everything that follows: image cache, parts, features.
"""

import contextlib
import csv
import json
import logging
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from reid_core.data.animals import NEW
from reid_core.data.table.findings import Finding, log_findings, make_finding
from reid_core.errors import UserError
from reid_core.files.checksums import digest_of
from reid_core.files.escape import escape_line

REQUIRED = ("image_id", "identity", "path", "split", "dataset")
QUERY_REQUIRED = tuple(name for name in REQUIRED if name != "identity")  # of a table that only queries are taken from
COLUMNS = ("image_id", "identity", "path", "date", "orientation", "species", "split", "dataset")
SHOWN = 5  # offending rows an error lists
SHOWN_LETTERS = 200  # of a value
# Characters that move the cursor, begin a line, or turn the direction of writing: no name needs them. Written as the
# characters themselves, so that Arrow's regular expressions and Python's mean the same.
CONTROL = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How a data folder is read: the same whenever it is read again."""

    skip_missing: bool = False  # leave out rows whose photograph does not exist, instead of failing
    follow_links: bool = False  # take photographs that are links to files outside the folder

    def settings(self) -> dict[str, bool]:
        """What must be the same when a sweep is resumed; what is off by default and came later only where it is on."""
        return {"skip_missing": self.skip_missing} | ({"follow_links": True} if self.follow_links else {})


STRICT = Reading()


class Metadata(NamedTuple):
    """What was read."""

    rows: pa.Table  # of strings: see `read_metadata`
    findings: tuple[Finding, ...]  # what of the file was dropped, changed, or read as missing


def load_metadata(
    root: Path, reading: Reading = STRICT, *, needs: Literal["database", "query"] = "database"
) -> pa.Table:
    """The rows of `read_metadata`; its findings are logged."""
    metadata = read_metadata(root, reading, needs=needs)
    log_findings(metadata.findings)
    return metadata.rows


def read_metadata(
    root: Path, reading: Reading = STRICT, *, needs: Literal["database", "query"] = "database"
) -> Metadata:
    """Read and check `metadata.csv` of a data folder.

    Args:
        root: Data folder; `path` is relative to it.
        reading: Which rows and files are taken.
        needs: The value of `split` of which there must be at least one row. Without database rows, and for queries,
            the file needs no column `identity`.

    Returns:
        Rows: table of strings `image_id, identity, path, date, orientation, species, split, dataset, group`, in the
        order of the file. `group` is `dataset`; identity is null for queries; image_id, path, split, dataset are never
        null. And what was noticed on the way.

    Raises:
        UserError: If a file, column, value or photograph is missing or wrong; names the file, lines and values.
    """
    root = Path(root)
    file = root / "metadata.csv"
    if not root.is_dir():
        raise UserError(f"{root}: no such data folder")
    table = _read_csv(file, REQUIRED if needs == "database" else QUERY_REQUIRED)
    for name in COLUMNS:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    table = table.select(COLUMNS)
    _check_values(file, table)
    is_query = pc.equal(table["split"], "query")
    identity = pc.if_else(is_query, pa.scalar(None, pa.string()), table["identity"])
    table = table.set_column(table.column_names.index("identity"), "identity", identity)
    table, findings = _check_paths(root, file, table, reading)
    if needs not in table["split"].to_pylist():
        lacking = {"database": "there is no gallery", "query": "there is nothing to name"}[needs]
        raise UserError(f"{file}: no {needs} row (split={needs}) with a photograph: {lacking}")
    return Metadata(table.append_column("group", table["dataset"]), tuple(findings))


def digest_metadata(table: pa.Table) -> str:
    """Short hash of every value of some rows, in their order: says whether metadata.csv means the same as before.

    Args:
        table: From `load_metadata`, or some of its rows.
    """
    canonical = json.dumps(table.select(COLUMNS).to_pydict(), separators=(",", ":"))
    return digest_of(canonical)


def load_submission_order(root: Path) -> list[str] | None:
    """Read the image_ids of `sample_submission.csv` in its order; None where the data folder has no such file.

    Raises:
        UserError: If its columns are not `image_id,identity`, or an id is repeated or not a query's in metadata.csv.
    """
    file = Path(root) / "sample_submission.csv"
    if not file.exists():
        return None
    table = _read_csv(file, ("image_id", "identity"))
    if table.column_names != ["image_id", "identity"]:
        raise UserError(f"{file}: its columns are {','.join(table.column_names)}; expected image_id,identity")
    metadata = _read_csv(Path(root) / "metadata.csv", QUERY_REQUIRED)
    queries = set(metadata.filter(pc.equal(metadata["split"], "query"))["image_id"].to_pylist())
    ids = table["image_id"].to_pylist()
    _refuse(file, ids, [image_id is None for image_id in ids], "image_id is empty")
    _refuse(file, ids, [image_id not in queries for image_id in ids], "image_id is not that of a query in metadata.csv")
    _check_unique(file, ids)
    return ids


def _read_csv(file: Path, required: tuple[str, ...]) -> pa.Table:
    """Table of strings, empty → null, at least one row."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            header = next(csv.reader(lines), [])
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UserError(f"{file}: line 1 is not a header: {error}") from error
    if not any(header):
        raise UserError(f"{file}: the file is empty" if not file.stat().st_size else f"{file}: line 1 is not a header")
    missing = [name for name in required if name not in header]
    if missing:
        has = escape_line(", ".join(header))
        raise UserError(f"{file}: missing column(s) {', '.join(missing)}; it has: {has}")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"{file}: column(s) given twice: {escape_line(', '.join(repeated))}")
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    try:
        table = pa_csv.read_csv(
            file, convert_options=convert, parse_options=pa_csv.ParseOptions(newlines_in_values=True)
        )
        if table.column_names != header:
            raise UserError(f"{file}: line 1 is not a header")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {_describe_damage(file, len(header), error)}") from error
    if not len(table):
        raise UserError(f"{file}: only a header, no rows")
    return table


def _check_values(file: Path, table: pa.Table) -> None:
    for name in COLUMNS:
        wrong = pc.match_substring_regex(table[name], CONTROL).fill_null(False).to_pylist()
        _refuse(file, table[name].to_pylist() if any(wrong) else [], wrong, f"{name} holds a control character")
    values = {name: table[name].to_pylist() for name in REQUIRED}
    for name in ("image_id", "path", "dataset"):
        _refuse(file, values[name], [value is None for value in values[name]], f"{name} is empty")
    _check_unique(file, values["image_id"])
    splits = values["split"]
    _refuse(file, splits, [split not in ("database", "query") for split in splits], "split is not database or query")
    names = [
        identity if split == "database" else "" for split, identity in zip(splits, values["identity"], strict=True)
    ]
    ids = values["image_id"]
    _refuse(file, ids, [name is None for name in names], "database row without identity; its image_id")
    _refuse(file, ids, [name == NEW for name in names], f"identity {NEW!r} is reserved; image_id")


def _check_unique(file: Path, ids: list[str]) -> None:
    first: dict[str, int] = {}
    for row, image_id in enumerate(ids):
        if first.setdefault(image_id, row) != row:
            before, after = _line_numbers(file, [first[image_id], row])
            raise UserError(f"{file}: image_id {image_id!r} is given twice, in lines {before} and {after}")


def _check_paths(root: Path, file: Path, table: pa.Table, reading: Reading) -> tuple[pa.Table, list[Finding]]:
    """Table without the rows whose photograph does not exist, if those may be skipped."""
    paths = table["path"].to_pylist()
    _refuse(file, paths, [path.startswith("/") for path in paths], f"path is absolute; it is relative to {root}")
    _refuse(file, paths, [".." in path.split("/") for path in paths], f"path has .., which may lead out of {root}")
    state = _locate(root.resolve(), paths, follow_links=reading.follow_links)
    outside = [found == "outside" for found in state]
    _refuse(file, paths, outside, f"path leads out of {root} by a symbolic link (--follow-links allows that)")
    _refuse(file, paths, [found == "folder" for found in state], "path is not a file")
    is_missing = [found == "missing" for found in state]
    findings = []
    if not reading.skip_missing:
        _refuse(file, paths, is_missing, f"photograph not found in {root} (--skip-missing leaves such rows out)")
    elif any(is_missing):
        missing = [repr(path) for path, wrong in zip(paths, is_missing, strict=True) if wrong]
        findings.append(make_finding(str(file), f"{len(missing)} row(s) left out, photograph not found", missing))
    return table.filter(pa.array([not wrong for wrong in is_missing], pa.bool_())), findings


def _locate(root: Path, paths: list[str], *, follow_links: bool = False) -> list[str]:
    """For each path "file", "folder", "missing" or "outside" of the resolved root; symbolic links are followed.

    One lstat a path: folders are resolved once each, because resolving 15,000 paths takes seconds.

    Args:
        root: Resolved.
        paths: Relative, without "..".
        follow_links: Whether what lies outside counts as inside.
    """
    inside_of: dict[str, bool] = {}
    states = []
    for path in paths:
        folder, full = path.rpartition("/")[0], root / path
        try:
            if folder not in inside_of:
                inside_of[folder] = follow_links or _is_inside(full.parent, root)
            mode = full.lstat().st_mode if inside_of[folder] else 0
            inside = inside_of[folder]
            if stat.S_ISLNK(mode):
                inside = follow_links or _is_inside(full, root)
                mode = full.stat().st_mode if inside else mode
            states.append("outside" if not inside else "file" if stat.S_ISREG(mode) else "folder")
        except OSError:
            states.append("missing")
    return states


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a path lies below the root once every symbolic link in it is followed."""
    try:
        return path.resolve().is_relative_to(root)
    except RuntimeError as error:  # links in a circle; from Python 3.13 on, opening it raises
        raise OSError(str(error)) from error


def _refuse(file: Path, values: list, is_wrong: list[bool], problem: str) -> None:
    """Raise UserError if any row is wrong, with line and value of the first few and the number of all."""
    rows = [row for row, wrong in enumerate(is_wrong) if wrong]
    if not rows:
        return
    numbers = _line_numbers(file, rows[:SHOWN])
    shown = [f"line {line}" for line in numbers]
    if values[rows[0]] is not None:
        shown = [f"{line}: {values[row]!r:.{SHOWN_LETTERS}}" for line, row in zip(shown, rows, strict=False)]
    raise UserError(f"{file}: {problem} ({len(rows)} row{'s' * (len(rows) > 1)}) in {_first(shown, len(rows))}")


def _first(items: list[str], num_items: int | None = None) -> str:
    return ", ".join(items[:SHOWN]) + (", ..." if (num_items or len(items)) > SHOWN else "")


def _line_numbers(file: Path, rows: list[int]) -> list[int]:
    """Line of the file on which each row of the table ends; blank lines are not rows, a quoted value may span lines."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        reader = csv.reader(lines)
        with contextlib.suppress(csv.Error, IndexError):  # a value of megabytes, a quotation mark within a value
            ends = [reader.line_num for row in reader if row]
            return [ends[row + 1] for row in rows]
    return [row + 2 for row in rows]


def _describe_damage(file: Path, num_columns: int, error: Exception) -> str:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines, contextlib.suppress(csv.Error):
        reader = csv.reader(lines)
        for row in reader:
            if row and len(row) != num_columns:
                return f"line {reader.line_num} has {len(row)} values, the header has {num_columns} columns"
    return f"cannot be parsed (a quotation mark that is not closed?): {escape_line(str(error))[:SHOWN_LETTERS]}"
