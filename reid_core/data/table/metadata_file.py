"""metadata.csv as a file that is written: as a whole, and never over a table that says something else.

rows of text ↔ CSV in AnimalCLEF25's layout, which `metadata.load_metadata` reads and checks.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from reid_core.data.table.columns import COLUMNS, read_table
from reid_core.data.table.metadata import REQUIRED
from reid_core.errors import UserError
from reid_core.files.atomic import new_file

Row = dict[str, str]


def write_rows(file: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write rows as CSV in one step.

    Args:
        file: Is replaced if it exists.
        rows: Values by column; those of other columns are left out.
        columns: In the order of the file.

    Raises:
        UserError: If it cannot be written.
    """
    with new_file(file) as part, part.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(file: Path) -> list[Row]:
    """Rows of a table as they are, unchecked; read as `columns.read_table` reads, whoever saved it since.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        columns = read_table(file, ()).columns
    except UserError as error:
        problem = str(error).removeprefix(f"{file}: ")
        raise UserError(f"{file}: exists and cannot be read: {problem}") from error
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def first_difference(existing: Sequence[Row], rows: Sequence[Row], *, source: str) -> str | None:
    """How a table that is there differs from rows in what must be given (`REQUIRED`), whatever the order of its rows.

    Args:
        existing: From `read_rows`.
        rows: What would be written.
        source: What the rows were made from, for the text.

    Returns:
        The first difference in words, None if there is none.

    Example:
        >>> row = {"image_id": "7", "identity": "ada", "path": "a.jpg", "split": "database", "dataset": "Lynx"}
        >>> first_difference([row | {"identity": "bo"}], [row], source="the dataset")
        "identity of image_id '7' is 'bo', in the dataset 'ada'"
    """
    lacking = [name for name in REQUIRED if existing and name not in existing[0]]
    if lacking:
        return f"it lacks column(s) {', '.join(lacking)}"
    others = {row["image_id"]: row for row in existing}
    if len(others) != len(rows):
        return f"{len(others)} images, {source} has {len(rows)}"
    for row in rows:
        other = others.get(row["image_id"])
        if other is None:
            return f"image_id {row['image_id']!r} is not in it"
        for name in REQUIRED:
            if row[name] != other[name]:
                return f"{name} of image_id {row['image_id']!r} is {other[name]!r}, in {source} {row[name]!r}"
    return None
