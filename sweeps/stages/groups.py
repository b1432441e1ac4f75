"""`--group`: a sweep of its own for each species group, one after the other in one job.

sweep + names of groups → a sweep of each group, which tries the best of those before it → `stages/group_result.py`.
Two runs of Ray Tune at once on one cluster are unsupported, so they take turns. What one sweep is does not matter here:
whoever calls says how to run one.
"""

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from reid_core.config.values import flatten
from reid_core.data.synthetic import resolve_data
from reid_core.errors import UserError
from reid_core.experiment.prepare import load_database
from reid_core.experiment.routing import make_slugs
from reid_core.files.checksums import read_sealed, write_sealed
from reid_core.files.escape import escape_line
from sweeps.machines.limits import Limits
from sweeps.results.journal import Journal, Record
from sweeps.results.result_folder import claim_out
from sweeps.results.storage import StorageError
from sweeps.search.priors import NUM_TRIED, PAPER, Prior
from sweeps.search.space import base_point, distributions
from sweeps.stages.confirm import FOLDER as CONFIRM
from sweeps.stages.definition import Sweep
from sweeps.stages.group_result import finish_groups, has_result, read_winner
from sweeps.stages.online import FOLDER as ONLINE
from sweeps.stages.refit import TRIALS as REFIT

EVERY_GROUP = "all"  # in the place of a name
FOLDER = "groups"  # in OUT: a result folder for each group
NAMES = "groups.json"  # in OUT: folder of each group, in the order of the sweeps
TRIED = "tried_first.json"  # in a group's folder: configurations that other groups found
FINISHED = "finished.json"  # in a group's folder: what was asked of a sweep that has ended
RunOne = Callable[[Sweep, Path, Limits], str]  # runs a sweep in a folder, or continues it; gives its result as text
logger = logging.getLogger(__name__)


def choose_groups(root: Path, names: Sequence[str], *, skip_missing: bool = False) -> list[str]:
    """The groups that are asked for by name, each once, in the order given; `EVERY_GROUP` is all of them, sorted.

    Raises:
        UserError: If a name is no group with labelled rows; lists those.
    """
    groups = sorted(set(load_database(root, skip_missing=skip_missing)["group"].to_pylist()))
    for name in names:
        if name not in (*groups, EVERY_GROUP):
            there = ", ".join(map(escape_line, groups))
            raise UserError(
                f"--group {escape_line(name)}: {root} has no such group with database rows; it has: {there}"
            )
    return list(dict.fromkeys(group for name in names for group in (groups if name == EVERY_GROUP else [name])))


def claim_groups(out: Path, sweep: Sweep, names: Sequence[str], *, resume: str) -> dict[Path, Sweep]:
    """Mark a result folder as that of a sweep per group; the same groups in the same order, or more, continue it.

    Args:
        out: Result folder.
        sweep: That is made once for each group.
        names: Of `--group`.
        resume: "auto", or "never" if the folder must be new.

    Returns:
        The sweep of each group by its result folder, in the order in which they are run.

    Raises:
        UserError: If a group is unknown, every group is a goal, or the folder holds another sweep or other groups.
    """
    if sweep.each_group:
        raise UserError("--objective each_group: with --group every sweep has one group, and that is its goal already")
    claim_out(out, sweep.settings() | {"by_group": True}, resume=resume)
    root = resolve_data(sweep.data, out / "data")
    groups = choose_groups(root, names, skip_missing=sweep.skip_missing)
    file = out / NAMES
    before = list(read_sealed(file)["groups"]) if file.exists() else []
    if groups[: len(before)] != before:
        told = " ".join(f"--group {escape_line(group)}" for group in before)
        raise UserError(f"--out {out} holds the sweeps of {told}; give these first, or choose another folder")
    slugs = make_slugs(groups)
    write_sealed(file, {"groups": slugs})
    store = sweep.share_store or str(out / "store")  # pairs are known by content: one store is enough
    folders = {group: out / FOLDER / slug for group, slug in slugs.items()}
    return {
        folder: replace(
            sweep,
            group=group,
            share_store=store,
            warm_start=tuple(folder_of_group(source, group) for source in sweep.warm_start),
            after=tuple((earlier, str(folders[earlier])) for earlier in groups[:number]),
        )
        for number, (group, folder) in enumerate(folders.items())
    }


def folder_of_group(source: str, group: str) -> str:
    """A value of `--warm-start`; where it is a sweep per group itself, the result folder of this group in it.

    Raises:
        UserError: If that one has no such group.
    """
    file = Path(source) / NAMES
    if source == PAPER or not file.is_file():
        return source
    slugs = read_sealed(file)["groups"]
    if group not in slugs:
        raise UserError(f"--warm-start {source}: has no sweep of the group {escape_line(group)}")
    return str(Path(source) / FOLDER / slugs[group])


def run_groups(sweeps: Mapping[Path, Sweep], out: Path, limits: Limits, run_one: RunOne) -> str:
    """Run what is left of each group's sweep, then bring together what they found.

    A group that cannot be swept, or gives no result, does not keep the others from theirs.

    Args:
        sweeps: From `claim_groups`.
        out: Result folder.
        limits: Of the whole job (`share_limits`).
        run_one: Runs one sweep, or what is left of it.

    Returns:
        The result as text.

    Raises:
        UserError: If no group has a result; says why.
    """
    left = [folder for folder, sweep in sweeps.items() if not is_finished(folder, sweep)]
    failures: dict[str, str] = {}
    for number, folder in enumerate(left):
        sweep = sweeps[folder]
        name, share = escape_line(str(sweep.group)), share_limits(limits, folder, sweeps, len(left) - number)
        logger.info("group %s (%d of %d): %s", name, len(sweep.after) + 1, len(sweeps), folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            told = run_one(sweep, folder, share)
        except StorageError:  # it would end the other groups' sweeps too
            raise
        except UserError as error:
            logger.warning("group %s: %s", name, error)
            failures[str(sweep.group)] = str(error)
            continue
        print(f"\ngroup {name}\n{told}\n")
        if share.reached(read_records(folder, "", CONFIRM)) is None and not is_cut_short(folder, sweep, share):
            write_sealed(folder / FINISHED, asked_of(sweep))
    return finish_groups(out, {str(sweep.group): folder for folder, sweep in sweeps.items()}, failures)


def is_cut_short(folder: Path, sweep: Sweep, limits: Limits) -> bool:
    """Whether a budget ended the search of a group before its last trial: with more of it, it goes on."""
    trials = read_records(folder, "")
    num_ended = sum(record.status != "running" for record in trials)
    return num_ended < sweep.num_trials and limits.search_share().reached(trials) is not None


def share_limits(limits: Limits, folder: Path, folders: Sequence[Path] | Mapping[Path, Any], num_left: int) -> Limits:
    """A group's part of the limits of the whole job: an equal share of the time and hours that are left.

    What a group does not use is left to those after it. `max_failures` is each group's own.

    Args:
        limits: Of the job.
        folder: Result folder of the group.
        folders: Of all groups: what their trials have held is spent.
        num_left: Groups that have not ended, this one included.
    """
    time_s, hours, now_s = limits.time_budget_s, limits.max_hours, time.monotonic()
    if time_s is not None:
        time_s = max(0.0, time_s - (now_s - limits.started_s)) / num_left
    if hours is not None:
        everything = [record for each in folders for record in read_records(each, "", CONFIRM, ONLINE, REFIT)]
        own = replace(limits, spent_hours=0.0).after(read_records(folder, "", CONFIRM)).spent_hours
        hours = own + max(0.0, hours - limits.after(everything).spent_hours) / num_left
    return replace(limits, time_budget_s=time_s, max_hours=hours, started_s=now_s)


def read_records(folder: Path, *parts: str) -> list[Record]:
    """Records of trials in a result folder and in folders within it; none where there is none."""
    journals = [folder / part / "trials" for part in parts]
    return [record for journal in journals if journal.is_dir() for record in Journal(journal).read()]


def asked_of(sweep: Sweep) -> dict[str, Any]:
    """What a sweep was asked for, beyond its settings: who asks for more continues it."""
    confirmation, more = asdict(sweep.confirmation), {"then_online": sweep.then_online, "refit": sweep.refit}
    return {"trials": sweep.num_trials, "confirmation": confirmation, **more}


def is_finished(folder: Path, sweep: Sweep) -> bool:
    """Whether the sweep of a group has done all that is asked of it; if not, or if in doubt, it is continued."""
    with contextlib.suppress(UserError):
        return has_result(folder) and read_sealed(folder / FINISHED) == asked_of(sweep)
    return False


def load_tried(out: Path, sweep: Sweep) -> list[Prior]:
    """The configurations of other groups that a group tries after the preset: chosen once, kept in `out`.

    They have no values: what they reached on other animals is not comparable. They are run here like any other.

    Args:
        out: Result folder of the group.
        sweep: Of the group; `after` are those whose best are tried.

    Raises:
        UserError: If what is kept is damaged, or a record of another group is.
    """
    if not sweep.after:
        return []
    file = out / TRIED
    if not file.exists():
        write_sealed(file, {"points": choose_points(sweep)})
    return [Prior(**point, values=[], is_tried=True) for point in read_sealed(file)["points"]]


def choose_points(sweep: Sweep) -> list[dict[str, Any]]:
    """Values of this sweep's keys with their source: the winners of the groups before, then their next best.

    As many as there are groups before, at least `NUM_TRIED`; none twice, none that is the preset.
    """
    rankings = [
        [(f"group {group}, {record.name}", record.parameters) for record in rank_trials(Path(folder))]
        for group, folder in sweep.after
    ]
    points: list[dict[str, Any]] = []
    seen = [base_point(sweep.space, sweep.base, sweep.fixed)]
    for source, parameters in (found for rank in zip_longest(*rankings) for found in rank if found):
        whole = flatten(sweep.base) | parameters
        try:
            values = {key: whole[key] for key in distributions(sweep.space, sweep.base, sweep.fixed, whole)}
        except UserError as error:
            logger.info("%s is not tried: %s", escape_line(source), error)
            continue
        if values not in seen:
            seen.append(values)
            points.append({"source": source, "parameters": values})
    return points[: max(NUM_TRIED, len(sweep.after))]


def rank_trials(folder: Path) -> list[Record]:
    """Completed trials of a search: the one that was chosen, then the others by their objective."""
    completed = [record for record in read_records(folder, "") if record.objective is not None]
    winner = read_winner(folder)
    return sorted(completed, key=lambda record: (record.name != winner, -(record.objective or 0.0)))


def plan_groups(sweep: Sweep, names: Sequence[str], plan_one: Callable[[Sweep], int]) -> int:
    """Print what each group's sweep would do; the largest status."""
    with tempfile.TemporaryDirectory() as scratch:
        root = resolve_data(sweep.data, Path(scratch))
        groups = choose_groups(root, names, skip_missing=sweep.skip_missing)
        print(f"{len(groups)} sweeps, one after the other; budgets are divided between them")
        statuses = []
        for group in groups:
            print(f"\ngroup {escape_line(group)}")
            statuses.append(plan_one(replace(sweep, group=group, data=str(root))))
    return max(statuses)
