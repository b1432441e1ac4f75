"""The data set's metadata, read and checked once.

metadata.csv and photographs → one Arrow table, one row per image, strings only (paper §3.1, AnimalCLEF25's layout).
Row i of the table is row i of everything that follows: image cache, parts, features.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import pyarrow as pa

from reid_core.data.table.columns import COLUMNS, TextTable, find_unused, read_table, strip_blanks
from reid_core.data.table.findings import Finding, log_findings, logged_with_error, make_finding, show_lines
from reid_core.data.table.names import find_alike
from reid_core.data.table.photograph_files import (
    Found,
    PhotographFiles,
    State,
    describe_changes,
    find_file,
    is_absolute,
    leads_up,
)
from reid_core.data.table.values import SPLITS, check_unique, read_values, refuse, refuse_rows
from reid_core.errors import UserError
from reid_core.files.checksums import digest_of
from reid_core.files.escape import escape_line

METADATA = "metadata.csv"
REQUIRED = ("image_id", "identity", "path", "split", "dataset")
# What may be wrong with a photograph's file, in the order in which it is looked for.
FAULTS: dict[State, str] = {
    "outside": "path leads out of {root} by a symbolic link (--follow-links allows that)",
    "folder": "path is not a file",
    "missing": "photograph not found in {root} (--skip-missing leaves such rows out)",
}
QUERY_REQUIRED = tuple(name for name in REQUIRED if name != "identity")  # of a table that only queries are taken from
_OTHER_TABLE = re.compile(r"metadata.*\.(csv|tsv|txt|xlsx?|ods)", re.IGNORECASE)


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
    root: Path,
    reading: Reading = STRICT,
    *,
    needs: Literal["database", "query"] = "database",
    absent: Mapping[str, str] = MappingProxyType({}),
) -> Metadata:
    """Read and check `metadata.csv` of a data folder.

    Args:
        root: Data folder; `path` is relative to it.
        reading: Which rows and files are taken.
        needs: The value of `split` of which there must be at least one row. Without database rows, and for queries,
            the file needs no column `identity`.
        absent: Values of columns for a file that has no such column, e.g. {"dataset": "lynx"}.

    Returns:
        Rows: table of strings `image_id, identity, path, date, orientation, species, split, dataset, group`, in the
        order of the file. `group` is `dataset`; identity is null for queries; image_id, path, split, dataset are never
        null. And what was noticed on the way.

    Raises:
        UserError: If a file, column, value or photograph is missing or wrong; names the file, lines and values.
    """
    root = Path(root)
    file = root / METADATA
    if not root.is_dir():
        raise UserError(f"{root}: no such data folder")
    required = REQUIRED if needs == "database" else QUERY_REQUIRED
    table = read_table(file, [name for name in required if name not in absent])
    findings = [*table.findings, *find_unused(table), *find_other_tables(file)]
    with logged_with_error(findings):
        rows = _check_rows(root, _fill_absent(table, absent, findings), reading, findings)
        if needs not in rows["split"].to_pylist():
            lacking = {"database": "there is no gallery", "query": "there is nothing to name"}[needs]
            raise UserError(f"{file}: no {needs} row (split={needs}) with a photograph: {lacking}")
    if needs == "database":
        findings += _find_groups_of_queries(rows)
    return Metadata(rows, tuple(findings))


def _check_rows(root: Path, table: TextTable, reading: Reading, findings: list[Finding]) -> pa.Table:
    """The rows that have a photograph, as `read_metadata` returns them; what is noticed is added to findings."""
    values = read_values(table, findings)
    ids, groups = ([str(value) for value in values[name]] for name in ("image_id", "dataset"))  # none is empty
    found_N = _find_photographs(root, table, reading, ids, findings)
    findings += find_alike(table.file.name, values["identity"], groups, ids)
    values |= {"path": [found.path for found in found_N], "group": values["dataset"]}
    rows = pa.table({name: pa.array(values[name], pa.string()) for name in (*COLUMNS, "group")})
    return rows.filter(pa.array([found.state == "file" for found in found_N], pa.bool_()))


def digest_metadata(table: pa.Table) -> str:
    """Short hash of every value of some rows, in their order: says whether metadata.csv means the same as before.

    Args:
        table: From `load_metadata`, or some of its rows.
    """
    canonical = json.dumps(table.select(COLUMNS).to_pydict(), separators=(",", ":"))
    return digest_of(canonical)


class SubmissionOrder(NamedTuple):
    """What `sample_submission.csv` asks for."""

    ids: list[str] | None  # image_ids in its order; None where the data folder has no such file
    findings: tuple[Finding, ...] = ()


def load_submission_order(root: Path) -> list[str] | None:
    """The image_ids of `read_submission_order`; its findings are logged."""
    order = read_submission_order(root)
    log_findings(order.findings)
    return order.ids


def read_submission_order(root: Path) -> SubmissionOrder:
    """Read the image_ids of `sample_submission.csv` in its order.

    Raises:
        UserError: If its columns are not `image_id,identity`, or an id is repeated or not a query's in metadata.csv.
    """
    file = Path(root) / "sample_submission.csv"
    if not file.exists():
        return SubmissionOrder(None)
    table = read_table(file, ("image_id", "identity"))
    queries = _read_query_ids(Path(root) / METADATA)
    with logged_with_error(table.findings):
        ids = _check_ids(table, queries)
    lacking = sorted(queries - set(ids))
    findings = list(table.findings)
    if lacking:
        what = f"{len(lacking)} queries of metadata.csv are not in it, and get no row in the submission"
        findings.append(make_finding(file.name, what, [repr(image_id) for image_id in lacking]))
    return SubmissionOrder(ids, tuple(findings))


def _check_ids(table: TextTable, queries: set[str]) -> list[str]:
    """The image_ids of a submission, each of them a query's."""
    file = table.file
    if [*table.columns] != ["image_id", "identity"]:
        raise UserError(f"{file}: its columns are {escape_line(','.join(table.columns))}; expected image_id,identity")
    ids = [strip_blanks(image_id) for image_id in table.columns["image_id"]]
    refuse(file, table.lines, ids, lambda image_id: not image_id, "image_id is empty")
    unknown = "image_id is not that of a query in metadata.csv"
    refuse(file, table.lines, ids, lambda image_id: image_id not in queries, unknown)
    check_unique(file, ids, table.lines)
    return ids


def _read_query_ids(file: Path) -> set[str]:
    """image_ids of all queries, of those too whose photograph is missing; without a column split all rows are."""
    columns = read_table(file, ("image_id",)).columns
    ids = map(strip_blanks, columns["image_id"])
    splits = columns.get("split") or ["query"] * len(columns["image_id"])
    return {
        image_id
        for image_id, split in zip(ids, splits, strict=True)
        if SPLITS.get(strip_blanks(split).casefold()) == "query"
    }


def _fill_absent(table: TextTable, absent: Mapping[str, str], findings: list[Finding]) -> TextTable:
    """The table with a value in every row of each column that it lacks, which is added to findings."""
    lacking = {name: value for name, value in absent.items() if name not in table.columns}
    if "split" in lacking and "identity" in table.columns:
        raise UserError(
            f"{table.file}: missing column(s) split, which says what rows are to be named (query) and what rows name "
            "an animal (database); without both split and identity all are to be named"
        )
    num_rows = len(table.lines)
    findings += [
        make_finding(table.file.name, f"no column {name}: {num_rows} row(s) taken for {value!r}", [], num_rows)
        for name, value in lacking.items()
    ]
    return replace(table, columns=table.columns | {name: [value] * num_rows for name, value in lacking.items()})


def _find_photographs(
    root: Path, table: TextTable, reading: Reading, id_N: Sequence[str], findings: list[Finding]
) -> list[Found]:
    """The file of each row; "missing" only where such rows may be left out. What is noticed is added to findings."""
    file, lines, paths = table.file, table.lines, table.columns["path"]
    refuse(file, lines, paths, is_absolute, f"path is absolute; it is relative to {root}")
    refuse(file, lines, paths, leads_up, f"path has .., which may lead out of {root}")
    files = PhotographFiles(root, follow_links=reading.follow_links)
    found_N = [find_file(files, path) for path in paths]
    findings += describe_changes(file.name, paths, found_N, lines, id_N)
    for state, problem in FAULTS.items():
        rows = [row for row, found in enumerate(found_N) if found.state == state]
        if rows and state == "missing" and reading.skip_missing:
            what = f"{len(rows)} row(s) left out, photograph not found"
            findings.append(make_finding(file.name, what, show_lines(lines, paths, rows), len(rows)))
        elif rows:
            refuse_rows(file, lines, rows, problem.format(root=root), lambda row: found_N[row].describe())
    return found_N


def _find_groups_of_queries(rows: pa.Table) -> list[Finding]:
    """Groups in which no animal has a name."""
    pairs = [*zip(rows["group"].to_pylist(), rows["split"].to_pylist(), strict=True)]
    queries = Counter(group for group, split in pairs if split == "query")
    named = {group for group, split in pairs if split == "database"}
    nameless = {group: count for group, count in queries.items() if group not in named}
    if not nameless:
        return []
    what = (
        f"{len(nameless)} group(s) have queries and no database row: nothing is trained on them or compared with them"
    )
    return [make_finding(METADATA, what, [f"{group!r}: {count} queries" for group, count in nameless.items()])]


def find_other_tables(file: Path) -> list[Finding]:
    """Tables beside metadata.csv that may be thought to be read."""
    names = sorted(
        other.name for other in file.parent.iterdir() if other.name != file.name and _OTHER_TABLE.fullmatch(other.name)
    )
    what = f"{len(names)} other file(s) in the folder look like tables of metadata, and are not read"
    return [make_finding(file.name, what, [repr(name) for name in names])] if names else []
