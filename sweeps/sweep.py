"""Ray Tune: one sweep from its command line to its result; what `metric.py` and its like call.

flags → prepared data → trials → best configuration → `testSet` once → bundle, trials.parquet, best.yaml.
"""

import argparse
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray.tune.schedulers import AsyncHyperBandScheduler

from reid_core import cli
from reid_core.config import TrialConfig, UserError, flatten
from reid_core.experiment import local_place, make_trainer, plan_of
from reid_core.finish import finish
from reid_core.model import describe_model
from reid_core.prepare import SYNTHETIC, load_prepared, prepare, read_truth, resolve_data
from sweeps.asker import Choices, Searched
from sweeps.checkpoints import load_finished
from sweeps.connect import add_resource_flags, on_cluster, start_ray
from sweeps.dry_run import print_plan
from sweeps.export import claim_out as claim_folder
from sweeps.export import format_result, read_result, write_best, write_result
from sweeps.journal import Journal, Record
from sweeps.limits import Limits, add_limit_flags, make_limits
from sweeps.online import Epochs, check_offline, continue_online, parse_epochs
from sweeps.report import best_record, describe_online, format_failures, write_trials
from sweeps.resources import Resources
from sweeps.search_flag import choices_of, describe_searched, parse_searched
from sweeps.searcher import JournalSearch, epoch_scores
from sweeps.space import Space, base_point, most_epochs
from sweeps.stream import ray_map
from sweeps.trial import Job, make_scorer, open_store
from sweeps.tuning import run_tuner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """All that defines a sweep, whatever it runs on."""

    name: str  # of the script
    space: Space  # with the keys of `searched` in it
    base: TrialConfig
    fixed: frozenset[str]  # dotted keys that are not searched
    num_trials: int
    data: str
    skip_missing: bool
    searched: Searched = ()  # of `--search`
    then_online: Epochs | None = None  # None: no additional training
    share_store: str | None = None  # folder of the pair store; None: in OUT

    def settings(self) -> dict[str, Any]:
        """What must be the same when the sweep is resumed, by name; the number of trials may grow."""
        own = {"script": self.name, "data": self.data, "skip_missing": self.skip_missing, "fixed": sorted(self.fixed)}
        return own | {"searched": describe_searched(self.searched)} | flatten(self.base)


def make_parser(
    description: str | None, *, real: str = "megadescriptor", synthetic: str | None = "tiny"
) -> argparse.ArgumentParser:
    """The command line of a sweep script; its default presets as in `cli.add_common_flags`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_common_flags(parser, real=real, synthetic=synthetic)
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="KEY[=SPEC]",
        help="search one more key, or other values of a searched one: KEY (every choice, or the default candidates), "
        "KEY=a,b,c, KEY=low..high or KEY=log:low..high, e.g. predict.aggregate or match.shortlist=10,50,150; "
        "may be repeated",
    )
    parser.add_argument("--trials", type=int, default=50, help="configurations to try in all (default 50)")
    add_limit_flags(parser)
    parser.add_argument(
        "--then-online",
        nargs="?",
        const="winner",
        metavar="EPOCHS",
        help="after the search, train the best configuration on with online augmentation, for as many epochs as it had "
        "or for EPOCHS",
    )
    add_resource_flags(parser)
    return parser


def run_sweep(name: str, space: Space, options: argparse.Namespace) -> int:
    """Run a sweep script with what `make_parser` parsed; the exit status is 0 if there is a result.

    Raises:
        UserError: If a flag or the data are wrong, the cluster is too small, or no trial completes.
    """
    sweep = make_sweep(name, space, options)
    if options.plan:
        return print_plan(sweep, options)
    if on_cluster() and not options.out.is_absolute():
        logger.warning("--out %s is relative: it lies in the job's own folder, which Ray deletes", options.out)
    out = cli.make_out(options.out)
    journal = claim_out(out, sweep, resume=options.resume)
    resources = start_ray(options)
    try:
        print(complete(sweep, out, journal, resources, make_limits(options, resources)))
    finally:
        ray.shutdown()
    return 0


def make_sweep(name: str, space: Space, options: argparse.Namespace) -> Sweep:
    """The sweep that the flags ask for; a base outside its own space is told before anything is done."""
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: must be at least 1")
    base, fixed = cli.make_config(options), frozenset(cli.parse_fixed(options.set))
    searched = _with_absolute_files(parse_searched(options.search, base, fixed))
    then_online = options.then_online
    sweep = Sweep(
        name=name,
        space=partial(space, searched=searched),  # type: ignore[call-arg]
        base=base,
        fixed=fixed,
        num_trials=options.trials,
        data=options.data if options.data == SYNTHETIC else str(Path(options.data).resolve()),
        skip_missing=options.skip_missing,
        searched=searched,
        share_store=str(cli.make_out(options.share_store)) if options.share_store else None,
        then_online=parse_epochs(then_online) if then_online not in (None, "winner") else then_online,
    )
    point = base_point(sweep.space, base, fixed)
    if then_online is not None:
        check_offline(base, set(point))
    return sweep


def _with_absolute_files(searched: Searched) -> Searched:
    """Files and folders become absolute; weights files must be there."""
    make_absolute = {"model.weights": cli.absolute_weights, "fusion.second_model": cli.absolute_folder}
    return tuple(
        (key, Choices(tuple(map(make_absolute[key], candidates.values))))
        if key in make_absolute and isinstance(candidates, Choices)
        else (key, candidates)
        for key, candidates in searched
    )


def claim_out(out: Path, sweep: Sweep, *, resume: str) -> Journal:
    """The journal of a result folder, new or to be continued.

    Raises:
        UserError: If the folder holds another sweep, or one that must not be resumed; names what differs.
    """
    claim_folder(out, sweep.settings(), resume=resume)
    return Journal(out / "trials")


def complete(sweep: Sweep, out: Path, journal: Journal, resources: Resources, limits: Limits) -> str:
    """Prepare, run what is left of the trials, score `testSet` for the best, export; returns the result as text."""
    root = resolve_data(sweep.data, out / "data")
    prepared = prepare(
        root,
        out / "cache",
        sweep.base,
        skip_missing=sweep.skip_missing,
        second_models=[name for name in choices_of(sweep.searched, "fusion.second_model") if name],
        map_chunks=ray_map,
        map_networks=partial(ray_map, gpus_per_worker=resources.gpus_per_worker),
    )
    plan_of(sweep.base, prepared, world_size=resources.workers)  # a batch that cannot be made is told now
    logger.info("%s", describe_model(sweep.base, num_identities=len(prepared.classes()[0])))
    folder = Path(sweep.share_store) if sweep.share_store else out / "store"
    store = open_store(sweep.base, prepared, folder, device=resources.device)
    job = Job(sweep.base, str(out), str(out / "cache"), resources, store)
    run_trials(sweep, job, journal, limits)
    records = journal.read()
    write_trials(out / "trials.parquet", records, sweep.base)
    best, reason = best_record(records), limits.reached(records)
    if reason:
        logger.warning("the sweep has ended: %s", reason)
    if best is None:
        told = f" ({reason})" if reason else ""
        raise UserError(f"no trial was completed{told}:\n{format_failures(records)}")
    online = continue_online(best, job, sweep.then_online) if sweep.then_online is not None else None
    if online is not None:
        logger.info("%s", describe_online(best, online))
        records = [*records, online]
        write_trials(out / "trials.parquet", records, sweep.base)
        best = best_record([best, online]) or best
    metrics = read_result(out, best)
    if metrics is None:
        # Where a worker's GPU is: the script itself may run on a head node that has none.
        task: Any = ray.remote(num_cpus=1, num_gpus=resources.gpus_per_worker)(finish_best)  # type: ignore[arg-type]
        metrics = ray.get(task.remote(best, job, root, skip_missing=sweep.skip_missing))
        write_best(out, job.configure(best.parameters), num_unreadable=prepared.num_unreadable)
        write_result(out, best, metrics)
    return format_result(out, records, best, metrics, num_unreadable=prepared.num_unreadable)


def run_trials(sweep: Sweep, job: Job, journal: Journal, limits: Limits) -> None:
    """Run what is left of the sweep's trials, within its limits; the journal has their results."""
    before = journal.read()
    left = sweep.num_trials - sum(record.status != "running" for record in before)
    if left <= 0 or limits.reached(before):
        return
    if before:
        logger.info("resuming: %d of %d trials have ended", sweep.num_trials - left, sweep.num_trials)
    run_tuner(
        JournalSearch(sweep.space, sweep.base, sweep.fixed, journal, limits),
        job,
        journal,
        num_left=left,
        num_trials=sweep.num_trials,
        limits=limits,
        scheduler=make_scheduler(most_epochs(sweep.space, sweep.base, sweep.fixed), before),
    )


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
    """Load the best trial's weights and finish it (`finish.finish`)."""
    config, prepared, place = job.configure(best.parameters), load_prepared(Path(job.cache)), local_place()
    if job.store is not None:
        place = replace(place, share_pairs=make_scorer(job.store, prepared, f"finish/{best.name}"))
    trainer = make_trainer(config, prepared, plan_of(config, prepared), place)
    load_finished(trainer, Path(best.checkpoint))
    truth = read_truth(root, prepared, skip_missing=skip_missing)
    return finish(config, prepared, truth, trainer.restore_best(), Path(job.out), place)
