"""Ray Tune: one sweep from its command line to its result; what `metric.py` and its like call.

flags → prepared data → trials → best configuration → `testSet` once → bundle, trials.parquet, best.yaml.
"""

import argparse
import json
import logging
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import ray.tune
import torch
from ray.tune.schedulers import AsyncHyperBandScheduler
from tqdm import tqdm

from reid_core import cli
from reid_core.bundle import write_config
from reid_core.config import TrialConfig, UserError, flatten
from reid_core.environment import describe_environment
from reid_core.experiment import finish, local_place, make_trainer, plan_of
from reid_core.plan import count_steps, oversample
from reid_core.prepare import (
    Prepared,
    animal_names,
    load_database,
    load_prepared,
    prepare,
    read_truth,
    resolve_data,
    split_database,
)
from reid_core.splits import describe_parts
from reid_core.summary import format_metrics
from reid_core.train import SCORE
from sweeps.journal import Journal, Record
from sweeps.report import best_record, format_failures, format_leaderboard, write_trials
from sweeps.resources import Resources
from sweeps.searcher import JournalSearch, epoch_scores
from sweeps.space import Space, base_point, describe_space
from sweeps.stream import ray_map
from sweeps.trial import DRIVER_RESOURCES, Job, run_trial

logger = logging.getLogger(__name__)
SETTINGS = "sweep.json"
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a trial ends seconds earlier
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard's Train tab is empty
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables; the progress bar and the leaderboard tell the same in less
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # an autoscaling cluster needs minutes for a node
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal keeps what they would write
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Sweep:
    """All that defines a sweep; what may differ when it is resumed is in `Resources` and `num_trials`."""

    name: str  # of the script
    space: Space
    base: TrialConfig
    fixed: frozenset[str]
    num_trials: int
    data: str
    skip_missing: bool

    def settings(self) -> dict[str, Any]:
        """What must be the same when a sweep is resumed, by name."""
        own = {"script": self.name, "data": self.data, "skip_missing": self.skip_missing, "fixed": sorted(self.fixed)}
        return own | flatten(self.base)


def make_parser(description: str) -> argparse.ArgumentParser:
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


def run_sweep(name: str, space: Space, description: str, arguments: list[str] | None = None) -> int:
    """Run a sweep script from its command line; the exit status is 0 if there is a result."""
    options = make_parser(description).parse_args(arguments)
    sweep = Sweep(
        name=name,
        space=space,
        base=cli.make_config(options),
        fixed=frozenset(cli.parse_fixed(options.set)),
        num_trials=_positive("--trials", options.trials),
        data=options.data if options.data == "synthetic" else str(Path(options.data).resolve()),
        skip_missing=options.skip_missing,
    )
    base_point(space, sweep.base, sweep.fixed)  # a base outside its own space is told before anything is done
    if options.plan:
        return print_plan(sweep, options)
    out = cli.make_out(options.out)
    journal = claim_out(out, sweep, resume=options.resume)
    resources = start_ray(options)
    try:
        return _run(sweep, out, journal, resources)
    finally:
        ray.shutdown()


def _run(sweep: Sweep, out: Path, journal: Journal, resources: Resources) -> int:
    root = resolve_data(sweep.data, out / "data")
    prepared = prepare(root, out / "cache", sweep.base, skip_missing=sweep.skip_missing, map_chunks=ray_map)
    plan_of(sweep.base, prepared, world_size=resources.workers)  # a batch that cannot be made is told now
    job = Job(sweep.base, str(out), str(out / "cache"), resources)
    run_trials(sweep, job, journal)
    records = journal.read()
    write_trials(out / "trials.parquet", records, sweep.base)
    best = best_record(records)
    if best is None:
        raise UserError(f"no trial was completed.\n{format_failures(records) or 'all were pruned'}")
    metrics = finish_remotely(best, job, root, sweep)
    print_result(out, records, best, job.configure(best.parameters), metrics, prepared)
    return 0


def claim_out(out: Path, sweep: Sweep, *, resume: str) -> Journal:
    """The journal of a result folder, new or to be continued.

    Raises:
        UserError: If the folder holds another sweep, or one that must not be resumed; names what differs.
    """
    file, settings = out / SETTINGS, sweep.settings()
    if file.exists():
        if resume == "never":
            raise UserError(f"--out {out} holds a sweep; --resume auto continues it, or choose another folder")
        before = json.loads(file.read_text())
        different = [key for key in settings | before if settings.get(key) != before.get(key)]
        if different:
            told = ", ".join(f"{key}: {before.get(key)!r} before, {settings.get(key)!r} now" for key in different)
            raise UserError(f"--out {out} holds a sweep with other settings ({told}); choose another folder")
    elif (out / "configuration.txt").exists():
        raise UserError(f"--out {out} holds a single run of python -m reid_core; choose another folder")
    else:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(settings, indent=1))
        part.replace(file)
    return Journal(out / "trials")


def start_ray(options: argparse.Namespace) -> Resources:
    """Join the cluster that this runs on, or start a local Ray with as many logical CPUs as the sweep needs.

    Raises:
        UserError: If the cluster cannot hold the sweep.
    """
    os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
    runtime_env = {"env_vars": ENVIRONMENT}
    if on_cluster():
        ray.init(runtime_env=runtime_env, log_to_driver=False)
    else:
        resources = make_resources(options, num_gpus=torch.cuda.device_count())
        logger.info("starting a local Ray with %d logical CPUs: %s", resources.logical_cpus(), resources.describe())
        # Without its dashboard Ray cannot free a stopped trial's resources, and the sweep would hang.
        ray.init(
            num_cpus=resources.logical_cpus(),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            runtime_env=runtime_env,
            log_to_driver=False,
        )
    resources = make_resources(options, num_gpus=ray.cluster_resources().get("GPU", 0))
    shortage = resources.shortage(ray.cluster_resources())
    if shortage:
        raise UserError(shortage)
    return resources


def on_cluster() -> bool:
    """Whether this runs as a Ray job or was pointed at a cluster."""
    return "RAY_ADDRESS" in os.environ or "RAY_JOB_ID" in os.environ


def make_resources(options: argparse.Namespace, *, num_gpus: float) -> Resources:
    """Resources from the flags, with defaults that depend on whether there are GPUs."""
    gpus = options.gpus_per_worker if options.gpus_per_worker is not None else float(num_gpus > 0)
    data_cpus = options.data_cpus if options.data_cpus is not None else (4.0 if gpus else 1.0)
    return Resources(
        concurrent=_positive("--concurrent", options.concurrent),
        workers=_positive("--workers", options.workers),
        gpus_per_worker=gpus,
        data_cpus_per_worker=data_cpus,
    )


def _positive(flag: str, value: int) -> int:
    if value < 1:
        raise UserError(f"{flag} {value}: must be at least 1")
    return value


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
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(run_trial, job=job), DRIVER_RESOURCES),
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=left,
            max_concurrent_trials=job.resources.concurrent,
            search_alg=JournalSearch(sweep.space, sweep.base, sweep.fixed, journal),
            scheduler=make_scheduler(sweep.base, before),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray.tune.RunConfig(
            name=f"session-{len(list((Path(job.out) / 'tune').glob('session-*'))):03d}",
            storage_path=str(Path(job.out) / "tune"),
            verbose=0,
            callbacks=[Progress(sweep, journal, Path(job.out))],
        ),
    )
    tuner.fit()


def make_scheduler(base: TrialConfig, before: list[Record]) -> AsyncHyperBandScheduler:
    """ASHA on epochs, with the rungs that ended trials have already filled.

    `max_t` lies beyond the last epoch: at `max_t` ASHA stops a trial before its final report can be made.
    """
    epochs = base.optim.epochs
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch", max_t=epochs + 2, grace_period=max(1, epochs // 4), reduction_factor=2
    )
    for name, epoch, score in epoch_scores(before):
        scheduler._brackets[0].on_result(SimpleNamespace(trial_id=name), epoch, score)
    return scheduler


class Progress(ray.tune.Callback):
    """A progress bar over trials, a line per ended trial, and a trials.parquet that is never older than that."""

    def __init__(self, sweep: Sweep, journal: Journal, out: Path) -> None:
        self.sweep, self.journal, self.out, self.bar = sweep, journal, out, None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"bar": None}  # Tune pickles its callbacks now and then

    def _update(self) -> None:
        records = self.journal.read()
        ended = [record for record in records if record.status != "running"]
        write_trials(self.out / "trials.parquet", records, self.sweep.base)
        if self.bar is None:
            self.bar = tqdm(total=self.sweep.num_trials, desc="trials", unit="trial", initial=0)
        self.bar.n = len(ended)
        best = best_record(records)
        self.bar.set_postfix_str(f"best {best.objective:.4f} ({best.name})" if best else "none completed yet")

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._update()
        tqdm.write(f"{trial.config['name']} started: {trial.config['parameters']}")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if "loss" in result:
            told = f"loss {result['loss']:.4f}  {SCORE} {result[SCORE]:.4f}"
            tqdm.write(f"{trial.config['name']} epoch {result['epoch']}: {told}")

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._update()
        ended = {record.name: record for record in self.journal.read()}[trial.config["name"]]
        told = f"objective {ended.objective:.4f}" if ended.objective is not None else ended.reason
        tqdm.write(f"{ended.name} {ended.status} after {len(ended.reports)} epochs  {told}")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.on_trial_complete(iteration, trials, trial)


def finish_remotely(best: Record, job: Job, root: Path, sweep: Sweep) -> dict[str, dict[str, float]]:
    """`experiment.finish` for the best trial, where a worker's GPU is."""
    needed = {"num_cpus": 1, "num_gpus": job.resources.gpus_per_worker}
    task = ray.remote(**needed)(finish_best)
    return ray.get(task.remote(best, job, root, skip_missing=sweep.skip_missing))


def finish_best(best: Record, job: Job, root: Path, *, skip_missing: bool) -> dict[str, dict[str, float]]:
    """Load the best trial's weights, score `testSet` once, write the bundle."""
    config, prepared, place = job.configure(best.parameters), load_prepared(Path(job.cache)), local_place()
    trainer = make_trainer(config, plan_of(config, prepared), place)
    trainer.load(Path(best.checkpoint))
    truth = read_truth(root, prepared, skip_missing=skip_missing)
    return finish(config, prepared, truth, trainer.restore_best(), Path(job.out), place)


def print_result(
    out: Path,
    records: list[Record],
    best: Record,
    config: TrialConfig,
    metrics: dict[str, dict[str, float]],
    prepared: Prepared,
) -> None:
    """Write best.yaml and environment.json, and say what came out and where it lies."""
    write_config(out / "best.yaml", config)
    about = describe_environment() | {"seed": config.seed, "unreadable_photographs": prepared.num_unreadable}
    (out / "environment.json").write_text(json.dumps(about, indent=1))
    print(f"\n{format_leaderboard(records)}\n")
    if format_failures(records):
        print(f"{format_failures(records)}\n")
    print(f"best configuration ({best.name}):")
    for key, value in best.parameters.items():
        print(f"  {key}: {value}")
    print(f"\n{format_metrics(metrics)}\n")
    print("thresholdSet chose the trial and the thresholds, so its numbers are optimistic; testSet was used once.")
    if prepared.num_unreadable:
        print(f"{prepared.num_unreadable} unreadable photographs were left out.")
    print(f"\ntrials         {out / 'trials.parquet'}\nbest config    {out / 'best.yaml'}")
    print(f"model          {out / 'best'}\nevery answer   {out / 'predictions.parquet'}")


def print_plan(sweep: Sweep, options: argparse.Namespace) -> int:
    """Print space, trials, steps, resources and whether they can be had; the status is 2 if they cannot."""
    with tempfile.TemporaryDirectory() as scratch:
        database = load_database(resolve_data(sweep.data, Path(scratch)), skip_missing=sweep.skip_missing)
    parts = split_database(database, [None] * len(database), sweep.base)
    rows = parts.rows("training")
    identity_N = animal_names(parts)[rows]
    num_images = sum(map(len, oversample(identity_N, rows, sweep.base.data.oversample_to).values()))
    steps, epochs = count_steps(num_images, sweep.base.optim.batch_size), sweep.base.optim.epochs
    print(
        f"base: {cli.describe_config(sweep.base)}\n\n{describe_parts(parts.part_N, parts.identity_N, parts.group_N)}\n"
    )
    print(f"search space\n{describe_space(sweep.space, sweep.base, sweep.fixed)}\n")
    print(f"{sweep.num_trials} trials × {epochs} epochs × {steps} steps (batch size {sweep.base.optim.batch_size})")
    print(f"= {sweep.num_trials * epochs} epochs, {sweep.num_trials * epochs * steps} steps, if none is pruned")
    shortage = check_cluster(options)
    print(f"cannot start: {shortage}" if shortage else "it fits; nothing was run")
    return 2 if shortage else 0


def check_cluster(options: argparse.Namespace) -> str | None:
    """Say what a sweep would need, and why the cluster cannot hold it, if so."""
    if not on_cluster():
        resources = make_resources(options, num_gpus=torch.cuda.device_count())
        there = {"CPU": resources.logical_cpus(), "GPU": torch.cuda.device_count()}
        print(f"{resources.describe()}: a local Ray is started with {there['CPU']} logical CPUs")
        return resources.shortage(there)
    ray.init(log_to_driver=False)
    there = ray.cluster_resources()
    ray.shutdown()
    resources = make_resources(options, num_gpus=there.get("GPU", 0))
    print(f"{resources.describe()}: the cluster has {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs")
    return resources.shortage(there)
