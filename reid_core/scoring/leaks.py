"""Leak report: how much of the queries the gallery gives away by scene rather than by animal (paper §3.4, §7.2).

part, identity, group, date and fingerprint (N,) → table, one row per group and query set.

Letters: N images, Q queries, G gallery.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from reid_core.data.animals import positions_by_group
from reid_core.data.near_duplicates import Fingerprints, have_near_duplicate
from reid_core.data.splits.encounters import QUERY_SETS
from reid_core.data.table.dates import day_of
from reid_core.errors import UserError
from reid_core.files.escape import escape_cell, escape_line
from reid_core.files.text_table import format_table

SCHEMA = pa.schema(
    [
        ("group", pa.string()),
        ("part", pa.string()),
        ("num_queries", pa.int64()),
        ("same_encounter", pa.float64()),
        ("near_duplicate", pa.float64()),
    ]
)


def leak_report(
    part_N: np.ndarray,
    identity_N: np.ndarray,
    group_N: np.ndarray,
    date_N: Sequence[str | None] | np.ndarray,
    fingerprints: Fingerprints,
) -> pa.Table:
    """Count the query images that share identity and date, or nearly the pixels, with a gallery image of their group.

    Args:
        part_N: Part of each image; the gallery is `training`.
        identity_N: Identity of each image, None where it is unknown or locked.
        group_N: Species group of each image.
        date_N: ISO dates, None where there is none.
        fingerprints: What the images look like; near duplicates are found by pixels, so that a report does not depend
            on the model.

    Returns:
        Columns group, part ("thresholdSet", "testSet"), num_queries, and two shares of the query images in [0, 1]:
        same_encounter is null where queries or gallery have no date, or the queries' identities are locked;
        near_duplicate, of the queries on which something can be seen, is null where queries or gallery have none.
    """
    day_N = np.array([day_of(date) for date in date_N], dtype=object)
    rows = []
    for group, images in positions_by_group(group_N):
        gallery_G = images[part_N[images] == "training"]
        for part in QUERY_SETS:
            query_Q = images[part_N[images] == part]
            encounter = _share_of_encounters(query_Q, gallery_G, identity_N, day_N)
            duplicate = _share_of_duplicates(query_Q, gallery_G, fingerprints)
            rows.append((group, part, len(query_Q), encounter, duplicate))
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)


def _share_of_encounters(
    query_Q: np.ndarray, gallery_G: np.ndarray, identity_N: np.ndarray, day_N: np.ndarray
) -> float | None:
    met = {(identity_N[row], day_N[row]) for row in gallery_G if day_N[row] is not None}
    answerable = any(day_N[row] is not None and identity_N[row] is not None for row in query_Q)
    if not met or not answerable:
        return None
    return float(np.mean([(identity_N[row], day_N[row]) in met for row in query_Q]))


def _share_of_duplicates(query_Q: np.ndarray, gallery_G: np.ndarray, fingerprints: Fingerprints) -> float | None:
    query_Q, gallery_G = (rows[fingerprints.comparable_N[rows]] for rows in (query_Q, gallery_G))
    if not len(query_Q) or not len(gallery_G):
        return None
    return float(np.mean(have_near_duplicate(fingerprints, query_Q, gallery_G)))


def format_leaks(table: pa.Table) -> str:
    """The leak report as text, in percent; "-" where a share is undefined.

    Example:
        >>> row = {"group": "cow", "part": "testSet", "num_queries": 8, "same_encounter": 0.25, "near_duplicate": None}
        >>> print(format_leaks(pa.Table.from_pylist([row], schema=SCHEMA)))
        shared with training  queries  same encounter  near duplicate
        cow testSet                 8          25.0 %               -
    """
    lines = [["shared with training", "queries", "same encounter", "near duplicate"]]
    for row in table.to_pylist():
        shares = ["-" if row[name] is None else f"{row[name]:.1%}" for name in ("same_encounter", "near_duplicate")]
        shares = [share.replace("%", " %") for share in shares]
        lines.append([f"{escape_line(row['group'])} {row['part']}", str(row["num_queries"]), *shares])
    return format_table(lines)


def write_leaks(path: Path, table: pa.Table) -> None:
    """Write a leak report as CSV for people (`escape.escape_cell`); what is undefined is empty."""
    group = pa.array([escape_cell(name) for name in table["group"].to_pylist()], pa.string())
    pa_csv.write_csv(table.set_column(table.schema.get_field_index("group"), "group", group), path)


def read_leaks(path: Path) -> pa.Table:
    """Read what `write_leaks` wrote.

    Raises:
        UserError: If the file is missing or damaged.
    """
    types = {field.name: field.type for field in SCHEMA}
    try:
        table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=types))
        if table.schema.names == SCHEMA.names:
            return table
    except (OSError, ValueError) as error:  # Arrow's errors of parsing are ValueErrors
        raise UserError(f"{path}: missing or damaged: {error}") from error
    raise UserError(f"{path}: damaged: its columns are {', '.join(table.schema.names)}")
