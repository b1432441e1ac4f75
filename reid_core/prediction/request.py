"""What a model is asked: the queries of metadata.csv, or every photograph of a folder that has none.

folder, or a photograph → queries, rows that name an animal, and what was noticed on the way.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from reid_core.data.animal_folders import find_photographs, make_query_rows
from reid_core.data.animals import spell_name
from reid_core.data.photographs import extensions
from reid_core.data.table.findings import Finding, make_finding
from reid_core.data.table.metadata import (
    COLUMNS,
    METADATA,
    Reading,
    find_other_tables,
    read_metadata,
    read_submission_order,
)
from reid_core.data.table.names import fold_name
from reid_core.errors import UserError
from reid_core.files.escape import escape_line


@dataclass(frozen=True)
class Request:
    """Photographs that are to be named."""

    root: Path  # data folder
    queries: pa.Table  # rows of `metadata.read_metadata`, at least one
    database: pa.Table  # rows of the same table that name an animal; may be empty
    order: list[str] | None = None  # image_ids of the submission (`metadata.read_submission_order`)
    findings: tuple[Finding, ...] = ()  # what of the data was dropped, changed, or read as missing


def read_request(data: Path, groups: Sequence[str], reading: Reading, *, group: str | None = None) -> Request:
    """Read what is to be named.

    Args:
        data: Folder with metadata.csv; or one without, of whose photographs every one is a query; or a photograph.
        groups: Species groups that the model knows.
        reading: How the folder is read.
        group: Species group of the photographs where no table says it; None: the model's only one.

    Raises:
        UserError: If there is nothing to name, nothing that the model can name, or the group is not clear.
    """
    group = None if group is None else spell_name(group)
    try:
        is_file, is_folder = data.is_file(), data.is_dir()
    except OSError as error:  # a name that is too long, a folder on the way that must not be searched
        raise UserError(f"--data {data}: cannot be read: {error.strerror}") from error
    if is_file:
        request = _of_photograph(data, _choose_group(groups, group))
    elif not is_folder:
        raise UserError(f"--data {data}: no such folder or photograph")
    elif os.path.lexists(data / METADATA):  # also a link that leads nowhere, which reading names
        request = _of_table(data.resolve(), reading, groups, group)
    else:
        request = _of_folder(data.resolve(), _choose_group(groups, group), reading)
    return replace(request, findings=(*request.findings, *_check_groups(request, groups)))


def _choose_group(groups: Sequence[str], group: str | None) -> str:
    """The group of photographs that no table describes."""
    if group is None and len(groups) == 1:
        return groups[0]
    known = escape_line(", ".join(groups))
    if group is None:
        raise UserError(
            f"no {METADATA} says of which species group the photographs are, and the model knows {len(groups)}: give "
            f"--group NAME, one of {known}"
        )
    if group not in groups:
        raise UserError(f"--group {group}: the model does not know this group; it knows {known}")
    return group


def _of_table(root: Path, reading: Reading, groups: Sequence[str], group: str | None) -> Request:
    absent = {"split": "query"}
    if group is not None or len(groups) == 1:
        absent["dataset"] = _choose_group(groups, group)
    metadata = read_metadata(root, reading, needs="query", absent=absent)
    if group is not None and set(metadata.rows["group"].to_pylist()) != {group}:
        raise UserError(f"--group {group}: {root / METADATA} says the groups of the photographs; leave --group out")
    is_query = pc.equal(metadata.rows["split"], "query")
    queries, database = metadata.rows.filter(is_query), metadata.rows.filter(pc.invert(is_query))
    order = read_submission_order(root)
    return Request(root, queries, database, order.ids, (*metadata.findings, *order.findings))


def _of_folder(root: Path, group: str, reading: Reading) -> Request:
    """Every photograph below a folder."""
    for table in find_other_tables(root / METADATA):
        raise UserError(
            f"{root}: no {METADATA}, but {', '.join(table.examples)}: rename it, or move it away to have every "
            "photograph named"
        )
    found = find_photographs(root, follow_links=reading.follow_links)
    left_out = [
        make_finding("photographs", f"left out, {reason}: {len(names)}", names)
        for reason, names in found.left_out.items()
    ]
    if not found.photographs:
        more = "".join(f"; {finding.what} ({', '.join(finding.examples)})" for finding in left_out)
        raise UserError(
            f"{root}: neither {METADATA} nor photographs in it ({' '.join(sorted(extensions()))}){escape_line(more)}"
        )
    queries = _make_table(root, found.photographs, group)
    what = f"no {METADATA}: {len(queries)} photograph(s) are to be named, as group {group}"
    folders = sorted({str(path.parent) for path in found.photographs if path.parent.parts})
    if folders:
        what += f"; the names of their {len(folders)} folder(s) say nothing (python -m reid_core.folders reads them)"
    return Request(root, queries, queries.slice(0, 0), findings=(make_finding("photographs", what, folders), *left_out))


def _of_photograph(file: Path, group: str) -> Request:
    if file.suffix.lower() not in extensions():
        raise UserError(
            f"--data {file}: neither a folder nor a photograph ({' '.join(sorted(extensions()))}); of a table, give "
            "the folder that it lies in"
        )
    root = file.parent.resolve()
    queries = _make_table(root, [PurePosixPath(file.name)], group)
    beside = [make_finding("photographs", f"{METADATA} beside the photograph is not read", [file.name])]
    return Request(root, queries, queries.slice(0, 0), findings=tuple(beside if (root / METADATA).exists() else ()))


def _make_table(root: Path, photographs: Sequence[PurePosixPath], group: str) -> pa.Table:
    """Rows as of `metadata.read_metadata`."""
    rows = make_query_rows(root, photographs, group)
    table = pa.table({name: pa.array([row[name] or None for row in rows], pa.string()) for name in COLUMNS})
    return table.append_column("group", table["dataset"])


def _check_groups(request: Request, groups: Sequence[str]) -> list[Finding]:
    """What is said of queries whose group the model does not know; an error if that are all."""
    asked = request.queries["group"].to_pylist()
    unknown = [group for group in asked if group not in groups]
    names = list(dict.fromkeys(unknown))
    if not unknown:
        return []
    known = ", ".join(groups)
    folded = {fold_name(group): group for group in groups}
    names = [f"{name} (meant? {folded[fold_name(name)]})" if fold_name(name) in folded else name for name in names]
    if len(unknown) == len(asked):
        raise UserError(
            f"{request.root}: nothing can be named: the model knows {escape_line(known)}, and the queries are of "
            f"{escape_line(', '.join(names))}; a group must be written in {METADATA} (dataset) as the model writes it"
        )
    what = f"{len(unknown)} of {len(asked)} are of groups that the model does not know; it knows {known}"
    return [make_finding("queries", what, names)]
