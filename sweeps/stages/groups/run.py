"""`--group`: the sweeps of several groups, one after the other in one job.

sweep of each group → what is left of it is run, within its share of the limits → `result.finish_groups`. Two runs of
Ray Tune at once on one cluster are unsupported, so they take turns. What one sweep is does not matter here: the caller
says how to run one.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reid_core.errors import UserError
from reid_core.files.checksums import read_sealed, write_sealed
from reid_core.files.escape import escape_line
from sweeps.machines.limits import Limits
from sweeps.results.result_folder import CONFIRM, FINISHED, FURTHER_TRIALS, read_records
from sweeps.results.storage import StorageError
from sweeps.stages.definition import Sweep
from sweeps.stages.groups.result import finish_groups, has_result, no_result

RunOne = Callable[[Sweep, Path, Limits], str]  # runs a sweep in a folder, or continues it; gives its result as text
logger = logging.getLogger(__name__)


def run_groups(sweeps: Mapping[Path, Sweep], out: Path, limits: Limits, run_one: RunOne) -> str:
    """Run what is left of each group's sweep, then bring together what they found.

    A group that cannot be swept, or gives no result, does not keep the others from theirs.

    Args:
        sweeps: From `divide_sweep`.
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
            text = run_one(sweep, folder, share)
        except StorageError:  # it would end the other groups' sweeps too
            raise
        except UserError as error:
            logger.warning("group %s: %s", name, error)
            failures[str(sweep.group)] = str(error)
            continue
        if share.reached(read_records(folder, "", CONFIRM)) is None and not is_cut_short(folder, sweep, share):
            write_sealed(folder / FINISHED, asked_of(sweep))
        print(f"\ngroup {name}\n{text}\n")
    return finish_groups(out, {str(sweep.group): folder for folder, sweep in sweeps.items()}, failures)


def is_cut_short(folder: Path, sweep: Sweep, limits: Limits) -> bool:
    """Whether a budget ended the search of a group before its last trial: with more of it, it goes on."""
    trials = read_records(folder, "")
    num_ended = sum(record.has_ended for record in trials)
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
        everything = [record for each in folders for record in read_records(each, "", *FURTHER_TRIALS)]
        own = replace(limits, spent_hours=0.0).after(read_records(folder, "", CONFIRM)).spent_hours
        hours = own + max(0.0, hours - limits.after(everything).spent_hours) / num_left
    return replace(limits, time_budget_s=time_s, max_hours=hours, started_s=now_s)


def asked_of(sweep: Sweep) -> dict[str, Any]:
    """What a sweep was asked for, beyond its settings; if it is asked for more, it goes on."""
    confirm, more = asdict(sweep.confirm), {"then_online": sweep.then_online, "refit": sweep.refit}
    return {"trials": sweep.num_trials, "confirmation": confirm, **more}


def is_finished(folder: Path, sweep: Sweep) -> bool:
    """Whether the sweep of a group has done all that is asked of it; if not, or if in doubt, it is continued."""
    with contextlib.suppress(UserError):
        return has_result(folder) and read_sealed(folder / FINISHED) == asked_of(sweep)
    return False


def check_groups(sweeps: Mapping[Path, Sweep], check_one: Callable[[Sweep, Path], object]) -> dict[str, str]:
    """Find out of each group whether its sweep could be run.

    Args:
        sweeps: From `divide_sweep`.
        check_one: Finds it out for one sweep and its folder, by an error.

    Returns:
        Why some could not, by group.

    Raises:
        UserError: If no group could get a result, and none has one; says why.
    """
    failures: dict[str, str] = {}
    for folder, sweep in sweeps.items():
        try:
            check_one(sweep, folder)
        except UserError as error:
            failures[str(sweep.group)] = str(error)
    if len(failures) == len(sweeps) and not any(map(has_result, sweeps)):
        raise no_result(failures)
    return failures


def print_dry_runs(sweeps: Mapping[Path, Sweep], print_one: Callable[[Sweep, Path], None]) -> None:
    """Print what each group's sweep would do, or why it would not.

    Raises:
        UserError: If not one of them would be run.
    """

    def try_one(sweep: Sweep, folder: Path) -> None:
        print(f"\ngroup {escape_line(str(sweep.group))}")
        try:
            print_one(sweep, folder)
        except UserError as error:
            print(f"cannot be run, and the others are: {error}")
            raise

    print(f"{len(sweeps)} sweeps, one after the other; budgets are divided between them")
    check_groups(sweeps, try_one)
