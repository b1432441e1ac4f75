"""Ray Tune: one sweep from its command line to its result; what `metric.py` and its like call.

flags → prepared data → trials → best configuration → `testSet` once → bundle, trials.parquet, best.yaml.
"""

import argparse
import json
import logging
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import ray.tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from reid_core import cli
from reid_core.config import TrialConfig, UserError, flatten
from reid_core.experiment import finish, local_place, make_trainer, plan_of
from reid_core.model import describe_model
from reid_core.prepare import SYNTHETIC, load_prepared, prepare, read_truth, resolve_data
from reid_core.train import SCORE
from sweeps.connect import on_cluster, start_ray
from sweeps.dry_run import print_plan
from sweeps.export import format_result, read_result, write_best, write_result
from sweeps.journal import Journal, Record
from sweeps.progress import Progress
from sweeps.report import best_record, format_failures, write_trials
from sweeps.resources import Resources, driver_resources
from sweeps.searcher import JournalSearch, epoch_scores
from sweeps.space import Space, base_point
from sweeps.stream import ray_map
from sweeps.trial import Job, run_trial

SETTINGS = "sweep.json"  # in OUT: what must be the same when the sweep is resumed
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """All that defines a sweep, whatever it runs on."""

    name: str  # of the script
    space: Space
    base: TrialConfig
    fixed: frozenset[str]  # dotted keys that are not searched
    num_trials: int
    data: str
    skip_missing: bool

    def settings(self) -> dict[str, Any]:
        """What must be the same when the sweep is resumed, by name; the number of trials may grow."""
        own = {"script": self.name, "data": self.data, "skip_missing": self.skip_missing, "fixed": sorted(self.fixed)}
        return own | flatten(self.base)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of a sweep script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_common_flags(parser)
    parser.add_argument("--trials", type=int, default=50, help="configurations to try in all (default 50)")
    parser.add_argument("--concurrent", type=int, default=1, help="trials at a time (default 1)")
    parser.add_argument("--workers", type=int, default=2, help="Ray Train workers per trial (default 2)")
    parser.add_argument("--gpus-per-worker", type=float, help="default: 1 where Ray finds GPUs, else 0")
    parser.add_argument("--data-cpus", type=float, help="CPUs per worker for augmentation (default 1; 4 with GPUs)")
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: continue what OUT holds; never: refuse an OUT that holds a sweep (default auto)",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be done and whether it fits; run nothing")
    return parser


def run_sweep(name: str, space: Space, description: str | None, arguments: list[str] | None = None) -> int:
    """Run a sweep script from its command line; the exit status is 0 if there is a result.

    Raises:
        UserError: If a flag or the data are wrong, the cluster is too small, or no trial completes.
    """
    options = make_parser(description).parse_args(arguments)
    sweep = make_sweep(name, space, options)
    if options.plan:
        return print_plan(sweep, options)
    if on_cluster() and not options.out.is_absolute():
        logger.warning("--out %s is relative: it lies in the job's own folder, which Ray deletes", options.out)
    out = cli.make_out(options.out)
    journal = claim_out(out, sweep, resume=options.resume)
    resources = start_ray(options)
    try:
        print(complete(sweep, out, journal, resources))
    finally:
        ray.shutdown()
    return 0


def make_sweep(name: str, space: Space, options: argparse.Namespace) -> Sweep:
    """The sweep that the flags ask for; a base outside its own space is told before anything is done."""
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: must be at least 1")
    sweep = Sweep(
        name=name,
        space=space,
        base=cli.make_config(options),
        fixed=frozenset(cli.parse_fixed(options.set)),
        num_trials=options.trials,
        data=options.data if options.data == SYNTHETIC else str(Path(options.data).resolve()),
        skip_missing=options.skip_missing,
    )
    base_point(space, sweep.base, sweep.fixed)
    return sweep


def claim_out(out: Path, sweep: Sweep, *, resume: str) -> Journal:
    """The journal of a result folder, new or to be continued.

    Raises:
        UserError: If the folder holds another sweep, or one that must not be resumed; names what differs.
    """
    file, settings = out / SETTINGS, sweep.settings()
    if (out / cli.CLAIM).exists():
        raise UserError(f"--out {out} holds a single run of python -m reid_core; choose another folder")
    if file.exists():
        if resume == "never":
            raise UserError(f"--out {out} holds a sweep; --resume auto continues it, or choose another folder")
        before = json.loads(file.read_text())
        different = [key for key in settings | before if settings.get(key) != before.get(key)]
        if different:
            told = ", ".join(f"{key}: {before.get(key)!r} before, {settings.get(key)!r} now" for key in different)
            raise UserError(f"--out {out} holds a sweep with other settings ({told}); choose another folder")
    part = file.with_suffix(".part")
    part.write_text(json.dumps(settings, indent=1))
    part.replace(file)
    return Journal(out / "trials")


def complete(sweep: Sweep, out: Path, journal: Journal, resources: Resources) -> str:
    """Prepare, run what is left of the trials, score `testSet` for the best, export; returns the result as text."""
    root = resolve_data(sweep.data, out / "data")
    prepared = prepare(root, out / "cache", sweep.base, skip_missing=sweep.skip_missing, map_chunks=ray_map)
    plan_of(sweep.base, prepared, world_size=resources.workers)  # a batch that cannot be made is told now
    logger.info("%s", describe_model(sweep.base))
    job = Job(sweep.base, str(out), str(out / "cache"), resources)
    run_trials(sweep, job, journal)
    records = journal.read()
    write_trials(out / "trials.parquet", records, sweep.base)
    best = best_record(records)
    if best is None:
        raise UserError(f"no trial was completed:\n{format_failures(records)}")
    metrics = read_result(out, best)
    if metrics is None:
        # Where a worker's GPU is: the script itself may run on a head node that has none.
        task: Any = ray.remote(num_cpus=1, num_gpus=resources.gpus_per_worker)(finish_best)  # type: ignore[arg-type]
        metrics = ray.get(task.remote(best, job, root, skip_missing=sweep.skip_missing))
        write_best(out, job.configure(best.parameters), num_unreadable=prepared.num_unreadable)
        write_result(out, best, metrics)
    return format_result(out, records, best, metrics, num_unreadable=prepared.num_unreadable)


def run_trials(sweep: Sweep, job: Job, journal: Journal) -> None:
    """Run what is left of the sweep's trials; the journal has their results."""
    before = journal.read()
    left = sweep.num_trials - sum(record.status != "running" for record in before)
    if left <= 0:
        return
    if before:
        logger.info("resuming: %d of %d trials have ended", sweep.num_trials - left, sweep.num_trials)
    random.seed(sweep.base.seed)
    np.random.seed(sweep.base.seed)  # Ray's scheduler draws from the global generator
    sessions = Path(job.out) / "tune"
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(
            ray.tune.with_parameters(run_trial, job=job), driver_resources(ray.cluster_resources())
        ),
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=left,
            max_concurrent_trials=job.resources.concurrent,
            search_alg=JournalSearch(sweep.space, sweep.base, sweep.fixed, journal),
            scheduler=make_scheduler(sweep.base.optim.epochs, before),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray.tune.RunConfig(
            name=f"session-{len(list(sessions.glob('session-*'))):03d}",
            storage_path=str(sessions),
            verbose=0,
            callbacks=[Progress(sweep.num_trials, sweep.base, journal, Path(job.out))],
        ),
    )
    tuner.fit()


def make_scheduler(epochs: int, before: list[Record]) -> AsyncHyperBandScheduler:
    """ASHA on epochs, with the rungs that ended trials have already filled.

    `max_t` lies beyond the last epoch: at `max_t` ASHA stops a trial before its final report can be made.
    """
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch", max_t=epochs + 2, grace_period=max(1, epochs // 4), reduction_factor=2
    )
    for name, epoch, score in epoch_scores(before):
        scheduler._brackets[0].on_result(SimpleNamespace(trial_id=name), epoch, score)  # type: ignore[arg-type]
    return scheduler


def finish_best(best: Record, job: Job, root: Path, *, skip_missing: bool) -> dict[str, dict[str, float]]:
    """Load the best trial's weights and finish it (`experiment.finish`)."""
    config, prepared, place = job.configure(best.parameters), load_prepared(Path(job.cache)), local_place()
    trainer = make_trainer(config, plan_of(config, prepared), place)
    trainer.load(Path(best.checkpoint))
    truth = read_truth(root, prepared, skip_missing=skip_missing)
    return finish(config, prepared, truth, trainer.restore_best(), Path(job.out), place)
