"""Every check of a sweep, in one order: `--plan` prints what comes out, and the run begins with the same.

flags, `Sweep`, data, machines → `Checked`, or the first error.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from reid_core import command
from reid_core.config.values import override
from reid_core.data.requested import notice_requests
from reid_core.data.splits.parts import Parts
from reid_core.data.table.findings import Finding, logged_with_error
from reid_core.data.test_set import read_uses
from reid_core.experiment.prepare import check_same_table, read_database
from reid_core.files.checksums import read_sealed
from reid_core.metrics.result import read_result
from sweeps.machines.connect import Machines
from sweeps.machines.limits import make_limits
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record
from sweeps.results.mirror import check_no_work, check_work, work_folder
from sweeps.results.result_folder import CACHE, FURTHER_TRIALS, TRIED, check_claim, read_records
from sweeps.results.storage import open_storage
from sweeps.search.priors import check_priors
from sweeps.search.search_flag import choices_of
from sweeps.stages.checks.data import check_split
from sweeps.stages.checks.models import (
    check_activations,
    check_config,
    check_files,
    check_gpu_memory,
    check_second_model,
)
from sweeps.stages.checks.room import check_room
from sweeps.stages.checks.values import find_left_out
from sweeps.stages.definition import Sweep


@dataclass(frozen=True)
class Checked:
    """A sweep that can be run, as far as can be known before."""

    sweep: Sweep  # without values that no trial can have
    parts: Parts  # who plays which part, if every photograph can be read
    notes: tuple[str, ...]  # for people: what was left out, and what is needed of disk and memory
    records: tuple[Record, ...]  # of its search, where it is resumed
    findings: tuple[Finding, ...]  # what of metadata.csv is not taken as it stands; the run logs it when it prepares


def check_out(options: argparse.Namespace) -> Path:
    """Find out whether the result folder can be written, without making it; the folder in which the sweep would work.

    Raises:
        UserError: If it cannot.
    """
    if not command.is_uri(options.out):
        check_no_work(options)
        command.check_out(Path(options.out))
        return Path(options.out).resolve()
    open_storage(options.out)
    folder = Path(options.work or work_folder(options.out))
    command.check_out(folder, flag="--work")
    check_work(folder, options.out)
    return folder.resolve()


def check_flags(sweep: Sweep, options: argparse.Namespace, out: Path, held: Path, resources: Resources) -> None:
    """What needs neither data nor models: limits, and whose result folder it is.

    Args:
        sweep: Its definition.
        options: The flags.
        out: Result folder; it need not exist.
        held: Folder with its marks (`mirror.held_marks`).
        resources: What the trials run on.

    Raises:
        UserError: If a flag is wrong.
    """
    make_limits(options, resources)
    settings = sweep.settings() | ({"by_group": True} if options.group else {})
    check_claim(out, settings, resume=options.resume, held=held)


def check_sweep(sweep: Sweep, root: Path, out: Path, machines: Machines) -> Checked:
    """What needs the data and the model, and no photograph.

    Args:
        sweep: Its definition.
        root: Data folder.
        out: Result folder; it need not exist.
        machines: What the trials run on.

    Raises:
        UserError: If no trial could run, none could be confirmed, or what a resumed sweep reads is damaged; it is the
            error that the run would end with.
    """
    records = read_resumed(sweep, out)
    database, findings = read_database(root, sweep.reading, sweep.group)
    with logged_with_error(findings):
        checked = _check_rows(sweep, database, root, out, machines)
    return replace(checked, records=tuple(records), findings=(*findings, *checked.findings))


def read_resumed(sweep: Sweep, out: Path) -> list[Record]:
    """Read everything that a resumed sweep reads of its result folder, some of it only after the search.

    Returns:
        The records of its search; none where the folder is new.

    Raises:
        UserError: If something is damaged, or of another search space.
    """
    records = read_records(out, "")
    for record in records:
        sweep.space.distributions(record.parameters)
    read_records(out, *FURTHER_TRIALS)
    check_priors(out, sweep.warm_start, sweep.space)
    if sweep.after and (out / TRIED).exists():
        read_sealed(out / TRIED)
    read_uses(out)
    read_result(out, "")  # of whatever trial
    return records


def _check_rows(sweep: Sweep, database: pa.Table, root: Path, out: Path, machines: Machines) -> Checked:
    resources, base = machines.resources, sweep.base
    check_same_table(out / CACHE, root, database)
    parts = check_split(database, base, root, num_fresh=sweep.confirm.num_runs if sweep.confirm.num_best else 0)
    model = check_config(base, parts, resources)
    check_gpu_memory(base, parts, resources)
    check_activations(base, parts, out / CACHE, device=resources.device)
    check_files(base)
    for name in {base.fusion.second_model, *choices_of(sweep.space.searched, "fusion.second_model")} - {None, ""}:
        check_second_model(override(base, {"fusion.second_model": name}))
    left_out, notes = find_left_out(sweep.space, parts, resources)
    notes += check_room(sweep, parts, model, out, machines)
    return Checked(
        replace(sweep, space=replace(sweep.space, left_out=left_out)),
        parts,
        tuple(notes),
        records=(),
        findings=tuple(notice_requests(database, base)),
    )
