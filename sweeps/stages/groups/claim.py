"""Which groups are swept, each in a result folder of its own.

`Sweep` + names of groups → the sweep of each group, which knows those before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reid_core.data.table.metadata import STRICT, Reading
from reid_core.errors import UserError
from reid_core.experiment.bundle.routing import make_slugs
from reid_core.experiment.prepare import load_database
from reid_core.files.checksums import read_sealed, write_sealed
from reid_core.files.escape import escape_line
from sweeps.results.result_folder import GROUP_NAMES, GROUPS, PAIR_STORE, claim_out
from sweeps.search.priors import PAPER
from sweeps.stages.definition import Sweep

EVERY_GROUP = "all"  # in the place of a name


def choose_groups(root: Path, names: Sequence[str], *, reading: Reading = STRICT) -> list[str]:
    """The groups that are asked for by name, each once, in the order given; `EVERY_GROUP` is all of them, sorted.

    Raises:
        UserError: If a name is not that of a group with labelled rows; lists those.
    """
    groups = sorted(set(load_database(root, reading=reading)["group"].to_pylist()))
    chosen: list[str] = []
    for name in names:
        if name not in (*groups, EVERY_GROUP):
            there = ", ".join(map(escape_line, groups))
            raise UserError(
                f"--group {escape_line(name)}: {root} has no such group with database rows; it has: {there}"
            )
        chosen += groups if name == EVERY_GROUP else [name]
    return list(dict.fromkeys(chosen))


def claim_groups(out: Path, sweep: Sweep, sweeps: Mapping[Path, Sweep], *, resume: str) -> None:
    """Mark a result folder as that of a sweep per group; the same groups in the same order, or more, continue it.

    Args:
        out: Result folder.
        sweep: What is done for each group.
        sweeps: From `divide_sweep`.
        resume: "auto", or "never" if the folder must be new.

    Raises:
        UserError: If the folder holds another sweep.
    """
    claim_out(out, sweep.settings() | {"by_group": True}, resume=resume)
    write_sealed(out / GROUP_NAMES, {"groups": {str(each.group): folder.name for folder, each in sweeps.items()}})


def divide_sweep(
    out: Path, sweep: Sweep, names: Sequence[str], root: Path, *, held: Path | None = None
) -> dict[Path, Sweep]:
    """The sweep of each group; nothing is written.

    Args:
        out: Result folder.
        sweep: What is done for each group.
        names: Of `--group`.
        root: Data folder.
        held: Folder with the marks of `out`, if they are not there yet (`mirror.held_marks`).

    Returns:
        The sweeps by their result folders, in the order in which they are run.

    Raises:
        UserError: If a group is unknown, every group is a goal, or the folder holds the sweeps of other groups.
    """
    if sweep.each_group:
        raise UserError("--objective each_group: with --group every sweep has one group, and that is its goal already")
    groups = choose_groups(root, names, reading=sweep.reading)
    file = (held or out) / GROUP_NAMES
    before = list(read_sealed(file)["groups"]) if file.exists() else []
    if groups[: len(before)] != before:
        flags = " ".join(f"--group {escape_line(group)}" for group in before)
        raise UserError(f"--out {out} holds the sweeps of {flags}; give these first, or choose another folder")
    slugs = make_slugs(groups)
    pair_store = sweep.pair_store or str(out / PAIR_STORE)  # pairs are known by content: one store is enough
    folders = {group: out / GROUPS / slug for group, slug in slugs.items()}
    return {
        folder: replace(
            sweep,
            group=group,
            pair_store=pair_store,
            warm_start=tuple(folder_of_group(source, group) for source in sweep.warm_start),
            after=tuple((earlier, str(folders[earlier])) for earlier in groups[:number]),
        )
        for number, (group, folder) in enumerate(folders.items())
    }


def folder_of_group(source: str, group: str) -> str:
    """A value of `--warm-start`; where it is a sweep per group itself, the result folder of this group in it.

    Raises:
        UserError: If that sweep does not have the group.
    """
    file = Path(source) / GROUP_NAMES
    if source == PAPER or not file.is_file():
        return source
    slugs = read_sealed(file)["groups"]
    if group not in slugs:
        raise UserError(f"--warm-start {source}: has no sweep of the group {escape_line(group)}")
    return str(Path(source) / GROUPS / slugs[group])
