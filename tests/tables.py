"""Data folders with a table as somebody may have saved it."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

HEADER = ("image_id", "identity", "path", "date", "orientation", "species", "split", "dataset")
ROWS = (
    ("7", "ada", "images/a.jpg", "2020-01-02", "left", "cow", "database", "Cows"),
    ("3", "", "images/b.jpg", "", "", "cow", "query", "Cows"),
    ("5", "bo", "images/c.jpg", "", "", "", "database", "Cows"),
)


def to_text(
    rows: Sequence[Sequence[str]] = ROWS, header: Sequence[str] = HEADER, separator: str = ",", **options
) -> str:
    """Rows as `csv.writer` writes them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, **{"lineterminator": "\n"} | options)
    writer.writerows([header, *rows])
    return text.getvalue()


def put(
    root: Path, content: str | bytes, files: Sequence[str] = ("images/a.jpg", "images/b.jpg", "images/c.jpg")
) -> Path:
    """A data folder with this table and with empty files for photographs."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "metadata.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def with_values(column: str, values: Sequence[str]) -> list[list[str]]:
    """One row for each value of a column, good in all others."""
    rows = []
    for number, value in enumerate(values):
        row = dict(zip(HEADER, ROWS[0], strict=True)) | {"image_id": str(number), column: value}
        rows.append([row[name] for name in HEADER])
    return rows
