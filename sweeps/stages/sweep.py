"""The course of one sweep, from prepared data to its result; what `metric.py` and its like call.

`Sweep` → prepared data → trials → confirmation → best configuration → `testSet` once → bundle, trials.parquet
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from reid_core.data.synthetic import resolve_data
from reid_core.metrics.result import write_result
from sweeps.machines.connect import Machines, find_machines, ray_at_work, start_ray
from sweeps.machines.limits import Limits, make_limits
from sweeps.results.mirror import Mirror, blame_storage, held_marks, open_out
from sweeps.results.result_folder import (
    FURTHER_TRIALS,
    REFIT_BUNDLE,
    TRIAL_TABLE,
    claim_out,
    format_result,
    read_records,
    write_best,
)
from sweeps.results.timeline import Laps, age_of_process_s, describe_time
from sweeps.results.trial_table import describe_hours, write_trials
from sweeps.search.space import SpaceFunction
from sweeps.stages.checks.all_checks import check_flags, check_out, check_sweep
from sweeps.stages.choose_best import choose_best, describe_choice
from sweeps.stages.command_line import make_sweep
from sweeps.stages.definition import Sweep
from sweeps.stages.dry_run import print_dry_run
from sweeps.stages.final_test import score_test_set
from sweeps.stages.groups.claim import claim_groups, divide_sweep
from sweeps.stages.groups.run import check_groups, run_groups
from sweeps.stages.refit_best import refit_best
from sweeps.stages.run_search import make_goals, prepare_trials, run_search
from sweeps.trials.failures import continue_when_freed
from sweeps.trials.slots.pool import Pool, keep_slots

logger = logging.getLogger(__name__)


def run_sweep(name: str, space: SpaceFunction, options: argparse.Namespace) -> int:
    """Run a sweep script with what `command_line.make_parser` parsed; the exit status is 0 if there is a result.

    Raises:
        UserError: If a flag or the data are wrong, the cluster is too small, or no trial completes.
    """
    laps = Laps(ago_s=age_of_process_s())
    laps.lap("imports")
    sweep = make_sweep(name, space, options)
    with ray_at_work(), continue_when_freed():
        working = check_out(options)
        machines = find_machines(options)
        with held_marks(options, working) as held:
            check_flags(sweep, options, working, held, machines.resources)
            if options.plan:
                return print_dry_run(sweep, options.group, working, held, machines)
        out, mirror = open_out(options)
        groups: dict[Path, Sweep] = {}
        if options.group:
            groups = claim_checked_groups(sweep, options.group, out, machines, resume=options.resume)
        else:
            sweep = claim_checked(sweep, out, machines, resume=options.resume)
        laps.lap("checks")
        start_ray(machines)
        laps.lap("Ray's start", out)
        limits = make_limits(options, machines.resources)
        with blame_storage(mirror), keep_slots(machines.resources, out) as pool:
            if groups:
                one = partial(complete_group, machines=machines, mirror=mirror, pool=pool)
                text = run_groups(groups, out, limits, one)
            else:
                text = complete(sweep, out, limits, pool=pool, mirror=mirror)
        text += f"\n\n{describe_time(out, age_s=age_of_process_s())}"
        if mirror:
            mirror.push(everything=True)
            text += f"\n{'all of it':<20}{mirror.storage.uri}"
    print(text)
    return 0


def claim_checked(sweep: Sweep, out: Path, machines: Machines, *, resume: str) -> Sweep:
    """A sweep that can be run, as far as can be known before; its result folder is marked as its own only then.

    Raises:
        UserError: If it cannot be run, or the folder holds another sweep.
    """
    checked = check_sweep(sweep, resolve_data(sweep.data, out / "data"), out, machines)
    for note in checked.notes:
        logger.info("%s", note)
    claim_out(out, sweep.settings(), resume=resume)
    return checked.sweep


def claim_checked_groups(
    sweep: Sweep, names: Sequence[str], out: Path, machines: Machines, *, resume: str
) -> dict[Path, Sweep]:
    """The sweep of each group, of which at least one can be run; the result folder is marked only then.

    Raises:
        UserError: If none can be run, or the folder holds another sweep.
    """
    root = resolve_data(sweep.data, out / "data")
    groups = divide_sweep(out, sweep, names, root)
    check_groups(groups, lambda each, folder: check_sweep(each, root, folder, machines))
    claim_groups(out, sweep, groups, resume=resume)
    return groups


@continue_when_freed()  # else it would be this group's failure, and the next group's too
def complete_group(
    sweep: Sweep, out: Path, limits: Limits, *, machines: Machines, mirror: Mirror | None, pool: Pool
) -> str:
    """The sweep of one group, in a folder of its own, begun or continued; the result as text."""
    sweep = claim_checked(sweep, out, machines, resume="auto")
    return complete(sweep, out, limits, pool=pool, mirror=mirror)


def complete(sweep: Sweep, out: Path, limits: Limits, *, pool: Pool, mirror: Mirror | None = None) -> str:
    """Prepare, run what is left of the trials, confirm, score `testSet` for the best, export; the result as text.

    Args:
        sweep: Its definition.
        out: Its result folder, claimed.
        limits: End it early.
        pool: Slots that its trials run on.
        mirror: Of `out`, or of a folder above it.
    """
    laps, root = Laps(), resolve_data(sweep.data, out / "data")
    prepared, context = prepare_trials(sweep, root, out, pool, mirror)
    goals = make_goals(sweep, prepared)
    laps.lap("data", out)
    records = run_search(sweep, context, limits, goals)
    laps.lap("search", out)
    found = choose_best(sweep, context, records, limits, goals)
    laps.lap("confirmation", out)
    write_best(out, context.configure(found.best.parameters), num_unreadable=prepared.num_unreadable)
    scored = score_test_set(found.best, context, root, reading=sweep.reading)
    result = replace(scored, confirmation=found.describe_confirmation())
    write_result(out, result)
    laps.lap("testSet", out)
    notes = describe_choice(found, goals)
    if sweep.refit:
        failure = refit_best(found.best, found.runs, context, root, reading=sweep.reading)
        notes.append(f"--refit: {failure}" if failure else f"refitted on all database images: {out / REFIT_BUNDLE}")
        write_result(out, result)  # with this use of testSet
    laps.lap("refit", out)
    everything = read_records(out, "", *FURTHER_TRIALS)
    write_trials(out / TRIAL_TABLE, found.records, sweep.base, everything)
    notes.append(f"everything that was trained, re-runs included: {describe_hours(everything)}")
    return format_result(
        out,
        found.records,
        found.best,
        result,
        objective=sweep.base.threshold.objective,
        notes=notes,
    )
