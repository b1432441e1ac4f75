"""One folder per animal as a data folder: `python -m reid_core.folders PHOTOS` writes PHOTOS/metadata.csv.

PHOTOS/<animal>/*.jpg, or PHOTOS/<species>/<animal>/*.jpg → metadata.csv for `--data PHOTOS`. A photograph that lies in
no animal's folder, or in one called `unknown`, `query` or `queries`, is a query: one to be named. Dates are those that
cameras wrote into the photographs (EXIF). Photographs are neither moved nor changed.
"""

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reid_core import command
from reid_core.data.animal_folders import (
    OTHER,
    QUERY_FOLDERS,
    Found,
    find_photographs,
    fold_name,
    is_storable,
    make_rows,
)
from reid_core.data.photographs import extensions, read_date
from reid_core.data.table.columns import strip_blanks
from reid_core.data.table.metadata_file import Row, first_difference, read_rows, write_rows
from reid_core.errors import UserError
from reid_core.files.escape import escape_line

SHOWN = 3  # names of what was left out
KEPT = ("date", "orientation", "species")  # columns that a person may have filled in
OWN_FILES = {"metadata.csv", "sample_submission.csv"}


def write_metadata(root: Path, rows: Sequence[Row], *, overwrite: bool = False) -> Path:
    """Write metadata.csv, or leave one that says the same already.

    Args:
        root: Data folder.
        rows: From `animal_folders.make_rows`.
        overwrite: Whether a table that says something else is replaced. Dates, orientations and species that it gives
            for a photograph are kept.

    Raises:
        UserError: If it says something else and may not be replaced, or it cannot be read or written.
    """
    file = root / "metadata.csv"
    if file.exists():
        try:
            existing = read_rows(file)
        except UserError as error:
            raise UserError(f"{error}; move it away") from error
        problem = first_difference(existing, rows, source="the folder")
        if problem is None:
            return file
        if not overwrite:
            raise UserError(
                f"{file}: exists and does not describe this folder ({problem}); it is left as it is. --overwrite "
                "writes it anew, with the dates, orientations and species that it has; to keep it, move it away"
            )
        rows = _keep_filled_in(existing, rows)
    write_rows(file, rows)
    return file


def _keep_filled_in(existing: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    before = {row.get("image_id"): row for row in existing}
    kept = [{name: before.get(row["image_id"], {}).get(name) for name in KEPT} for row in rows]
    return [row | {name: value for name, value in old.items() if value} for row, old in zip(rows, kept, strict=True)]


def describe_rows(rows: Sequence[Row]) -> list[str]:
    """Lines that say what a table holds: animals per group, queries, and what looks wrong."""
    groups: dict[str, Counter[str]] = {group: Counter() for group in sorted({row["dataset"] for row in rows})}
    for row in rows:
        if row["split"] == "database":
            groups[row["dataset"]][row["identity"]] += 1
    num_queries = sum(row["split"] == "query" for row in rows)
    animals = _number(sum(map(len, groups.values())), "animal")
    lines = [
        f"{_number(len(rows) - num_queries, 'photograph')} of {animals}, {_number(num_queries, 'query', 'queries')}"
    ]
    lines += [f"group {group}: {_number(len(count), 'animal')}, {_singles(count)}" for group, count in groups.items()]
    in_groups = Counter(identity for count in groups.values() for identity in count)
    repeated = sorted(identity for identity, number in in_groups.items() if number > 1)
    if repeated:
        lines.append(
            f"several groups have an animal of the same name, as {_first(repeated)}: these are different animals. If "
            "the first level of folders are the animals, give --group NAME"
        )
    return lines


def _number(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _singles(count: Counter[str]) -> str:
    return f"{sum(number == 1 for number in count.values())} of them with a single photograph"


def describe_left_out(found: Found) -> list[str]:
    """A line for each reason for which files were left out."""
    lines = []
    for reason, names in found.left_out.items():
        names = [name for name in names if reason != OTHER or name not in OWN_FILES]
        if names:
            lines.append(f"left out, {reason}: {len(names)} ({_first(names)})")
    return lines


def describe_blanks(found: Found) -> list[str]:
    """A line about names of folders that are read without the blanks at their ends."""
    names = dict.fromkeys(part for path in found.photographs for part in path.parent.parts[:2])
    blank = [repr(name) for name in names if strip_blanks(name) != name]
    return [f"names of folders read without blanks at their ends: {len(blank)} ({_first(blank)})"] if blank else []


def describe_dates(root: Path, rows: Sequence[Row]) -> list[str]:
    """A line about dates that cameras wrote and that are none, such as "0000:00:00 00:00:00"."""
    written = {row["path"]: read_date(root / row["path"]) for row in rows if not row["date"]}
    wrong = [f"{path}: {date}" for path, date in written.items() if date.strip("\0 ")]
    return [f"dates that cannot be read as such, left empty: {len(wrong)} ({_first(wrong)})"] if wrong else []


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _next_command(root: Path, rows: Sequence[Row], *, follow_links: bool) -> str:
    data = shlex.quote(str(root)) + (" --follow-links" if follow_links else "")
    if any(row["split"] == "database" for row in rows):
        return f"next: python -m reid_core --data {data} --out runs/first"
    return f"next: python -m reid_core.predict BUNDLE --data {data} --out submission.csv"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reid_core.folders", description=__doc__)
    parser.add_argument(
        "photos", metavar="PHOTOS", type=Path, help="folder that holds a folder for each animal, or for each species"
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        help="species group of all photographs; the first level of folders are then the animals, whatever lies in "
        "those (default: the first level, if the animals' folders lie in it, else the name of PHOTOS)",
    )
    parser.add_argument(
        "--queries",
        metavar="FOLDER",
        help="name of the folders with photographs of unknown animals, which are to be named; so are photographs that "
        f"lie in no animal's folder (default: {', '.join(QUERY_FOLDERS)})",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a metadata.csv that says something else, for example after photographs were added; dates, "
        "orientations and species that it gives are kept",
    )
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="take photographs and folders that are links to elsewhere (DVC, shared disks); what reads the table needs "
        "the flag too",
    )
    return parser


def _check(options: argparse.Namespace, found: Found) -> None:
    """Refuse what cannot be meant."""
    group = options.photos.resolve().name if options.group is None else options.group
    if not group.strip() or not is_storable(group):
        raise UserError(f"--group {group!r}: give --group NAME with a name that can be written into metadata.csv")
    if not found.photographs:
        left_out = "; ".join(describe_left_out(found))
        known = " ".join(sorted(extensions()))
        raise UserError(f"{options.photos}: no photographs in it ({known})" + (f"; {left_out}" if left_out else ""))
    names = {fold_name(part) for path in found.photographs for part in path.parts[:-1][:2]}
    if options.queries is not None and fold_name(options.queries.strip("/")) not in names:
        raise UserError(f"--queries {options.queries}: {options.photos} has no folder of this name with photographs")


def main(arguments: list[str] | None = None) -> int:
    """Write metadata.csv and say what is in it, what was left out, and what comes next."""
    options = make_parser().parse_args(arguments)
    root = options.photos
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = find_photographs(root, follow_links=options.follow_links)
    _check(options, found)
    query_folders = QUERY_FOLDERS if options.queries is None else [options.queries.strip("/")]
    rows = make_rows(root, found.photographs, group=options.group, query_folders=query_folders)
    file = write_metadata(root, rows, overwrite=options.overwrite)
    following = _next_command(root, rows, follow_links=options.follow_links)
    noticed = [*describe_left_out(found), *describe_blanks(found), *describe_dates(root, rows)]
    lines = [*describe_rows(rows), *noticed, f"written: {file}", following]
    print("\n".join(map(escape_line, lines)))
    return 0


if __name__ == "__main__":
    command.run(main)
