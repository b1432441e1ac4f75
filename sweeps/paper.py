"""The paper's comparison (tables 6.1 and 6.2) on any data: every system as it is, without search, and the starter.

    python sweeps/paper.py --data synthetic --scale small --out runs/paper
    python sweeps/paper.py --data PATH --out runs/paper
    python sweeps/paper.py --data PATH --out runs/paper --rows batch32,batch64_warmup,metric \\
        --set model.backbone=mobilenetv2_100 --set model.weights=mobilenetv2_100.safetensors

Each row is one Ray Train trial with a preset's configuration; `starter` (frozen backbone, cosine, one threshold of 0.6)
always runs. Each row is scored on testSet once, and nothing is selected by it. OUT gets tables.md and .csv, figures/,
and rows/ROW/best, a model that `python -m reid_core.predict` takes. The same command continues what was interrupted.
`--set` holds for every row, except for a key whose value sets that row apart from most others.
"""

import argparse
import logging
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `ray job submit` puts only sweeps/ on the path

import ray

from reid_core import cli, command
from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset, shrink
from reid_core.config.values import flatten, get, override
from reid_core.data.synthetic import SYNTHETIC, resolve_data
from reid_core.data.test_set import record_use
from reid_core.errors import UserError
from reid_core.experiment.prepare import Spread, prepare
from reid_core.experiment.training_setup import plan_of
from sweeps.comparison.report import write_report
from sweeps.machines.connect import add_resource_flags, find_shortage, ray_at_work, start_ray
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record
from sweeps.results.mirror import Mirror, add_work_flag, blame_storage, open_out
from sweeps.results.result_folder import claim_out, read_result, write_result
from sweeps.search.suggestion import Suggestion
from sweeps.stages.final_test import finish_best
from sweeps.trials.context import SweepContext
from sweeps.trials.driver import open_pair_store
from sweeps.trials.failures import continue_when_freed
from sweeps.trials.stream import ray_map
from sweeps.trials.tuning import run_fixed

TABLE_62 = ("batch16", "batch32", "batch64", "batch64_warmup", "batch64_complex_head", "metric", "efficientnet_b4")
BASELINE = "starter"
ROWS = (BASELINE, *TABLE_62, "metric_512", "efficientnet_b4_frozen")
logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_data_flags(parser, may_be_uri=True)
    add_work_flag(parser)
    parser.add_argument("--rows", default=",".join(ROWS), help="presets, separated by commas (default: %(default)s)")
    parser.add_argument(
        "--scale",
        choices=("full", "small"),
        default="full",
        help="small: tiny backbones of the same families at 64 px, for a laptop's CPU (default full)",
    )
    add_resource_flags(parser)
    return parser


def parse_rows(text: str) -> list[str]:
    """The rows to run in the order of `ROWS`; the baseline is always there.

    Raises:
        UserError: If one is no row.
    """
    asked = {BASELINE, *(name.strip() for name in text.split(",") if name.strip())}
    unknown = sorted(asked - set(ROWS))
    if unknown:
        raise UserError(f"--rows {','.join(unknown)}: no such row; there are: {', '.join(ROWS)}")
    return [name for name in ROWS if name in asked]


def own_keys(row: str) -> set[str]:
    """Keys whose value sets a row apart from most others: what makes it that row."""
    values = {name: flatten(make_preset(name)) for name in ROWS}
    usual = {key: Counter(repr(other[key]) for other in values.values()).most_common(1)[0][0] for key in values[row]}
    return {key for key, value in values[row].items() if repr(value) != usual[key]}


def configure_row(row: str, fixed: dict[str, Any], *, small: bool, seed: int | None) -> TrialConfig:
    """A row's preset, made small if asked for, with the `--set` keys that are not its own."""
    config = make_preset(row)
    config = shrink(config) if small else config
    kept = sorted(own_keys(row) & set(fixed))
    if kept:
        told = ", ".join(f"{key}={get(config, key)}" for key in kept)
        logger.info("%s keeps %s: that is what makes it that row", row, told)
    values = {key: value for key, value in fixed.items() if key not in kept}
    if seed is not None:
        values["seed"] = seed
    return cli.with_absolute_files(override(config, values))


def choose_base(configs: dict[str, TrialConfig]) -> TrialConfig:
    """The configuration that the data are prepared for: one with a matcher, if any row has one."""
    return next((config for config in configs.values() if config.match.matcher != "none"), next(iter(configs.values())))


def describe_scale(configs: dict[str, TrialConfig], *, small: bool) -> str:
    """What a reader must know before the numbers."""
    if not small:
        return ""
    pairs = {(config.model.backbone, make_preset(row).model.backbone) for row, config in configs.items()}
    swaps = "; ".join(f"{tiny} for {full}" for tiny, full in sorted(pairs))
    return (
        f"--scale small: tiny backbones of the same families at 64 px ({swaps}), random weights, all stages trained, "
        "other learning rates, SIFT for ALIKED + LightGlue. The recipes are the paper's, the numbers cannot be."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run every row, and write tables and figures; the exit status is 0 if every row has a result."""
    options = make_parser().parse_args(arguments)
    fixed, small = cli.parse_fixed(options.set), options.scale == "small"
    configs = {row: configure_row(row, fixed, small=small, seed=options.seed) for row in parse_rows(options.rows)}
    if options.plan:
        return print_plan(configs, options)
    out, mirror = open_out(options)
    data = options.data if options.data == SYNTHETIC else str(Path(options.data).resolve())
    settings = {"script": "paper", "data": data, "skip_missing": options.skip_missing, "scale": options.scale}
    claim_out(out, settings | {"seed": choose_base(configs).seed}, resume=options.resume)
    resources = start_ray(options)
    with ray_at_work(), continue_when_freed():
        with blame_storage(mirror):
            failures = compare(configs, out, data, options, resources, mirror)
        if mirror:
            mirror.push(everything=True)
            print(f"all of it: {mirror.storage.uri}")
    return 1 if failures else 0


def print_plan(configs: dict[str, TrialConfig], options: argparse.Namespace) -> int:
    """Print the rows and whether the cluster can hold them; nothing is run."""
    for row, config in configs.items():
        recipe = f"{config.loss.name}, batch {config.optim.batch_size}, {config.optim.epochs} epochs"
        print(f"{row:<24}{config.model.backbone}, {recipe}, {config.match.matcher}")
    shortage = find_shortage(options)
    print(f"cannot start: {shortage}" if shortage else "it fits; nothing was run")
    return 2 if shortage else 0


def compare(
    configs: dict[str, TrialConfig],
    out: Path,
    data: str,
    options: argparse.Namespace,
    resources: Resources,
    mirror: Mirror | None,
) -> dict[str, str]:
    """Train, score and export every row, then write the report; row → why it failed."""
    base, root = choose_base(configs), resolve_data(data, out / "data")
    prepared = prepare(
        root,
        out / "cache",
        base,
        skip_missing=options.skip_missing,
        spread=Spread(ray_map, partial(ray_map, gpus_per_worker=resources.gpus_per_worker)),
    )
    for config in configs.values():
        plan_of(config, prepared, world_size=resources.workers)  # a batch that cannot be made is told now
    store = open_pair_store(base, prepared, options.share_store or out / "store", device=resources.device)
    context = SweepContext(base, str(out), str(out / "cache"), resources, store, mirror)
    records = run_fixed([Suggestion(name=row, parameters=flatten(config)) for row, config in configs.items()], context)
    completed = {row: records[row] for row in configs if records[row].status == "completed"}
    metrics = {
        row: finish_row(record, context, root, skip_missing=options.skip_missing) for row, record in completed.items()
    }
    failures = {row: f"{records[row].status}: {records[row].reason}" for row in configs if row not in completed}
    note = describe_scale(configs, small=options.scale == "small")
    print(write_report(out, root, configs, completed, metrics, failures, note, skip_missing=options.skip_missing))
    return failures


def finish_row(record: Record, context: SweepContext, root: Path, *, skip_missing: bool) -> dict[str, dict[str, float]]:
    """Score a row on `testSet` and export its model, unless that was done before."""
    folder = Path(context.out) / "rows" / record.name
    folder.mkdir(parents=True, exist_ok=True)
    metrics = read_result(folder, record)
    if metrics is None:
        logger.info("%s: testSet", record.name)
        use = record_use(folder, trial=record.name, config=context.configure(record.parameters))
        context.push()
        gpus = context.resources.gpus_per_worker
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(finish_best)  # type: ignore[arg-type]
        metrics = ray.get(
            task.remote(record, replace(context, out=str(folder)), root, use=use, skip_missing=skip_missing)
        )
        write_result(folder, record, metrics)
    return metrics


if __name__ == "__main__":
    command.run(main)
