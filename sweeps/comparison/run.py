"""The comparison from start to end: every row is one trial with fixed parameters, scored once on `testSet`.

command line → trials, one per row → metrics and a model of each → tables and figures.
"""

import argparse
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reid_core import cli
from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten
from reid_core.data.synthetic import SYNTHETIC, resolve_data
from reid_core.data.table.metadata import Reading
from reid_core.experiment.prepare import check_same_table, load_database, prepare
from reid_core.experiment.training_setup import plan_of
from sweeps.comparison.numbers import Metrics
from sweeps.comparison.outcome import Outcome, write_outcome
from sweeps.comparison.rows import choose_base, configure_row, describe_scale, parse_rows
from sweeps.machines.connect import Machines, find_machines, ray_at_work, start_ray
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record
from sweeps.results.mirror import Mirror, blame_storage, held_marks, open_out
from sweeps.results.result_folder import CACHE, PAIR_STORE, check_claim, claim_out
from sweeps.search.suggestion import Suggestion
from sweeps.stages.checks.all_checks import check_out
from sweeps.stages.checks.data import check_split
from sweeps.stages.checks.models import check_activations, check_config, check_files
from sweeps.stages.checks.room import add_up, check_disk, check_memory, check_object_store, measure_disk
from sweeps.stages.final_test import score_test_set
from sweeps.stages.run_search import choose_spread
from sweeps.trials.context import SweepContext
from sweeps.trials.failures import continue_when_freed
from sweeps.trials.shared_scorer import open_pair_store
from sweeps.trials.slots.pool import keep_slots
from sweeps.trials.tuning import run_fixed

logger = logging.getLogger(__name__)


def run_comparison(options: argparse.Namespace) -> int:
    """Run every row, and write tables and figures; the exit status is 0 if every row has a result."""
    fixed, small = cli.parse_fixed(options.set), options.scale == "small"
    configs = {row: configure_row(row, fixed, small=small, seed=options.seed) for row in parse_rows(options.rows)}
    data = options.data if options.data == SYNTHETIC else str(Path(options.data).resolve())
    settings = {"script": "paper", "data": data, **cli.reading_of(options).settings(), "scale": options.scale}
    settings["seed"] = choose_base(configs).seed
    with ray_at_work(), continue_when_freed():
        working, machines = check_out(options), find_machines(options)
        with held_marks(options, working) as held:
            check_claim(working, settings, resume=options.resume, held=held)
        if options.plan:
            return print_dry_run(configs, data, working, machines, reading=cli.reading_of(options))
        out, mirror = open_out(options)
        root = resolve_data(data, out / "data")
        log_notes(check_rows(configs, root, out, machines, reading=cli.reading_of(options)))
        claim_out(out, settings, resume=options.resume)
        start_ray(machines)
        with blame_storage(mirror), keep_slots(machines.resources, out) as pool:
            context = replace(prepare_rows(configs, root, out, options, machines.resources, mirror), pool=pool)
            outcome = run_rows(configs, root, context, reading=cli.reading_of(options))
            note = describe_scale(configs, small=small)
            text = write_outcome(outcome, out, root, note, reading=cli.reading_of(options))
        if mirror:
            mirror.push(everything=True)
            text += f"\nall of it: {mirror.storage.uri}"
    print(text)
    return 1 if outcome.failures else 0


def check_rows(
    configs: Mapping[str, TrialConfig], root: Path, out: Path, machines: Machines, *, reading: Reading
) -> list[str]:
    """Find out what would end the comparison later, before anything costs time.

    Args:
        configs: Of the rows.
        root: Data folder.
        out: Result folder; it need not exist.
        machines: What the rows are trained on.
        reading: How the table is read.

    Returns:
        What is needed of disk and memory, for people.

    Raises:
        UserError: If the data cannot be divided or have changed, or a row cannot be trained or has no room.
    """
    database = load_database(root, reading=reading)
    check_same_table(out / CACHE, root, database)
    parts, device = check_split(database, choose_base(configs), root, num_fresh=0), machines.resources.device
    sizes, notes = [], []
    for config in configs.values():
        model = check_config(config, parts, machines.resources)
        check_activations(config, parts, out / CACHE, device=device)
        check_files(config)
        sizes.append(measure_disk(config, parts, model, num_trials=1))
        notes += check_memory(model, machines)
        notes += check_object_store(config, [config.optim.batch_size], machines)
    return [*check_disk(add_up(sizes), out), *dict.fromkeys(notes)]


def log_notes(notes: Sequence[str]) -> None:
    """One line each."""
    for note in notes:
        logger.info("%s", note)


def print_dry_run(
    configs: Mapping[str, TrialConfig], data: str, out: Path, machines: Machines, *, reading: Reading
) -> int:
    """Print the rows, and make every check that the run makes; nothing is run.

    Raises:
        UserError: If the run would end with it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        notes = check_rows(configs, resolve_data(data, Path(scratch)), out, machines, reading=reading)
    for row, config in configs.items():
        recipe = f"{config.loss.name}, batch {config.optim.batch_size}, {config.optim.epochs} epochs"
        print(f"{row:<24}{config.model.backbone}, {recipe}, {config.match.matcher}")
    print("\n".join([*notes, machines.describe(), "it fits; nothing was run"]))
    return 0


def prepare_rows(
    configs: Mapping[str, TrialConfig],
    root: Path,
    out: Path,
    options: argparse.Namespace,
    resources: Resources,
    mirror: Mirror | None,
) -> SweepContext:
    """Prepare the data for all rows and open the store of match scores; what every row's trial gets."""
    base = choose_base(configs)
    prepared = prepare(
        root,
        out / CACHE,
        base,
        reading=cli.reading_of(options),
        spread=choose_spread(resources),
    )
    for config in configs.values():
        plan_of(config, prepared, world_size=resources.workers)  # fails now if a row's batches cannot be made
    store = open_pair_store(base, prepared, options.share_store or out / PAIR_STORE, resources)
    return SweepContext(base, str(out), str(out / CACHE), resources, store, mirror)


def run_rows(configs: Mapping[str, TrialConfig], root: Path, context: SweepContext, *, reading: Reading) -> Outcome:
    """Train, score and export every row."""
    rows = [Suggestion(name=row, parameters=flatten(config)) for row, config in configs.items()]
    records = run_fixed(rows, context)
    completed = {row: records[row] for row in configs if records[row].status == "completed"}
    return Outcome(
        configs=configs,
        records=completed,
        metrics={row: finish_row(record, context, root, reading=reading) for row, record in completed.items()},
        failures={row: f"{records[row].status}: {records[row].reason}" for row in configs if row not in completed},
    )


def finish_row(record: Record, context: SweepContext, root: Path, *, reading: Reading) -> Mapping[str, Metrics]:
    """Score a row on `testSet` and export its model, unless that was done before."""
    folder = Path(context.out) / "rows" / record.name
    folder.mkdir(parents=True, exist_ok=True)
    return score_test_set(record, replace(context, out=str(folder)), root, reading=reading).metrics
