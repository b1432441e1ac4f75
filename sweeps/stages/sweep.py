"""Ray Tune: the course of one sweep, from prepared data to its result; what `metric.py` and its like call.

`Sweep` → prepared data → trials → confirmation → best configuration → `testSet` once → bundle, trials.parquet
"""

import argparse
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from reid_core.data.synthetic import resolve_data
from reid_core.data.test_set import Use, record_use
from reid_core.errors import UserError
from reid_core.experiment.final_test import run_final_test
from reid_core.experiment.prepare import Spread, prepare, read_truth
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import make_trainer, plan_of
from reid_core.model.place import local_place
from reid_core.model.reid_model import describe_model
from sweeps.machines.connect import ray_at_work, start_ray
from sweeps.machines.limits import Limits, make_limits
from sweeps.machines.resources import Resources
from sweeps.results.journal import Journal, Record
from sweeps.results.mirror import Mirror, blame_storage, open_out
from sweeps.results.report import best_record, describe_hours, describe_online, format_failures, write_trials
from sweeps.results.result_folder import claim_out as claim_folder
from sweeps.results.result_folder import format_result, read_result, write_best, write_result
from sweeps.search.goals import Goals, format_front, pick
from sweeps.search.optuna_search import JournalSearch, epoch_scores
from sweeps.search.priors import load_priors
from sweeps.search.search_flag import choices_of
from sweeps.search.space import Space, most_epochs
from sweeps.stages.confirm import FOLDER as CONFIRM
from sweeps.stages.confirm import Outcome, confirm_best, format_outcome
from sweeps.stages.definition import Sweep, make_sweep
from sweeps.stages.dry_run import print_plan
from sweeps.stages.groups import claim_groups, load_tried, plan_groups, read_records, run_groups
from sweeps.stages.online import FOLDER as ONLINE
from sweeps.stages.online import continue_online
from sweeps.stages.refit import FOLDER as REFIT
from sweeps.stages.refit import TRIALS as REFIT_TRIALS
from sweeps.stages.refit import refit_best
from sweeps.trials.checkpoints import load_finished
from sweeps.trials.driver import open_store
from sweeps.trials.failures import continue_when_freed
from sweeps.trials.job import Job
from sweeps.trials.stream import ray_map
from sweeps.trials.tuning import reopen, run_tuner
from sweeps.trials.worker import make_scorer

logger = logging.getLogger(__name__)


def run_sweep(name: str, space: Space, options: argparse.Namespace) -> int:
    """Run a sweep script with what `definition.make_parser` parsed; the exit status is 0 if there is a result.

    Raises:
        UserError: If a flag or the data are wrong, the cluster is too small, or no trial completes.
    """
    sweep = make_sweep(name, space, options)
    if options.plan:
        plan = partial(print_plan, options=options)
        return plan_groups(sweep, options.group, plan) if options.group else plan(sweep)
    out, mirror = open_out(options)
    groups = claim_groups(out, sweep, options.group, resume=options.resume) if options.group else {}
    journal = None if groups else claim_out(out, sweep, resume=options.resume)
    resources = start_ray(options)
    with ray_at_work(), continue_when_freed():
        limits = make_limits(options, resources)
        with blame_storage(mirror):
            if journal is None:
                print(run_groups(groups, out, limits, partial(complete_group, resources=resources, mirror=mirror)))
            else:
                print(complete(sweep, out, journal, resources, limits, mirror=mirror))
        if mirror:
            mirror.push(everything=True)
            print(f"{'all of it':<20}{mirror.storage.uri}")
    return 0


def claim_out(out: Path, sweep: Sweep, *, resume: str) -> Journal:
    """The journal of a result folder, new or to be continued.

    Raises:
        UserError: If the folder holds another sweep, or one that must not be resumed; names what differs.
    """
    claim_folder(out, sweep.settings(), resume=resume)
    return Journal(out / "trials")


@continue_when_freed()  # else it would be this group's failure, and the next group's too
def complete_group(sweep: Sweep, out: Path, limits: Limits, *, resources: Resources, mirror: Mirror | None) -> str:
    """The sweep of one group, in a folder of its own, begun or continued; the result as text."""
    return complete(sweep, out, claim_out(out, sweep, resume="auto"), resources, limits, mirror=mirror)


def complete(
    sweep: Sweep, out: Path, journal: Journal, resources: Resources, limits: Limits, *, mirror: Mirror | None = None
) -> str:
    """Prepare, run what is left of the trials, confirm, score `testSet` for the best, export; the result as text."""
    root = resolve_data(sweep.data, out / "data")
    prepared, job = prepare_job(sweep, root, out, resources)
    job = replace(job, mirror=mirror)
    goals = make_goals(sweep, prepared)
    run_trials(sweep, job, journal, limits.search_share() if sweep.confirmation.num_best else limits, goals)
    found = choose_best(sweep, job, journal.read(), limits, goals)
    metrics = score_test_set(found.best, job, root, skip_missing=sweep.skip_missing)
    write_best(out, job.configure(found.best.parameters), num_unreadable=prepared.num_unreadable)
    write_result(out, found.best, metrics, confirmed=found.describe_confirmation())
    notes = describe_choice(found, goals)
    if sweep.refit:
        runs = found.outcome.winning_runs if found.outcome else [found.best]
        failure = refit_best(found.best, runs, job, root, skip_missing=sweep.skip_missing)
        notes.append(f"--refit: {failure}" if failure else f"refitted on all database images: {out / REFIT}")
        write_result(out, found.best, metrics, confirmed=found.describe_confirmation())  # with this use of testSet
    everything = read_records(out, "", CONFIRM, ONLINE, REFIT_TRIALS)
    write_trials(out / "trials.parquet", found.records, sweep.base, everything)
    notes.append(f"everything that was trained, re-runs included: {describe_hours(everything)}")
    return format_result(
        out,
        found.records,
        found.best,
        metrics,
        objective=sweep.base.threshold.objective,
        num_unreadable=prepared.num_unreadable,
        notes=notes,
    )


def prepare_job(sweep: Sweep, root: Path, out: Path, resources: Resources) -> tuple[Prepared, Job]:
    """What is done once before the first trial, and what the trials share."""
    prepared = prepare(
        root,
        out / "cache",
        sweep.base,
        skip_missing=sweep.skip_missing,
        group=sweep.group,
        second_models=[name for name in choices_of(sweep.searched, "fusion.second_model") if name],
        spread=Spread(ray_map, partial(ray_map, gpus_per_worker=resources.gpus_per_worker)),
    )
    plan_of(sweep.base, prepared, world_size=resources.workers)  # a batch that cannot be made is told now
    logger.info("%s", describe_model(sweep.base, num_identities=len(prepared.classes()[0])))
    folder = Path(sweep.share_store) if sweep.share_store else out / "store"
    store = open_store(sweep.base, prepared, folder, device=resources.device)
    return prepared, Job(sweep.base, str(out), str(out / "cache"), resources, store)


def make_goals(sweep: Sweep, prepared: Prepared) -> Goals:
    """What is maximised; a group without known or without new animals in `thresholdSet` is no goal."""
    if not sweep.each_group:
        return Goals(sampler=sweep.sampler)
    queries = prepared.parts.rows("thresholdSet")
    known_Q, group_Q = prepared.parts.known(queries), prepared.parts.group_N[queries]
    groups = [str(group) for group in np.unique(group_Q.astype(str)) if 0 < known_Q[group_Q == group].mean() < 1]
    return Goals(groups=tuple(groups), sampler=sweep.sampler)


def run_trials(sweep: Sweep, job: Job, journal: Journal, limits: Limits, goals: Goals) -> None:
    """Run what is left of the sweep's trials, within its limits; the journal has their results."""
    before = reopen(journal)
    left = sweep.num_trials - sum(record.status != "running" for record in before)
    if left <= 0 or limits.reached(before):
        return
    if before:
        logger.info("resuming: %d of %d trials have ended", sweep.num_trials - left, sweep.num_trials)
    priors = load_priors(Path(job.out), sweep.warm_start, sweep.space, sweep.base, sweep.fixed, goals)
    priors += load_tried(Path(job.out), sweep)
    run_tuner(
        JournalSearch(sweep.space, sweep.base, sweep.fixed, journal, limits, goals, priors),
        job,
        journal,
        num_left=left,
        num_trials=sweep.num_trials,
        limits=limits,
        # With several goals no single score says which trial is hopeless.
        scheduler=None if goals.groups else make_scheduler(most_epochs(sweep.space, sweep.base, sweep.fixed), before),
    )


def make_scheduler(epochs: int, before: list[Record]) -> TrialScheduler:
    """ASHA on epochs, with the rungs that ended trials have already filled.

    `max_t` lies beyond the last epoch: at `max_t` ASHA stops a trial before its final report can be made.
    """
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch", max_t=epochs + 2, grace_period=max(1, epochs // 4), reduction_factor=2
    )
    for name, epoch, score in epoch_scores(before):
        scheduler._brackets[0].on_result(SimpleNamespace(trial_id=name), epoch, score)  # type: ignore[arg-type]
    return scheduler


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a sweep has found."""

    records: list[Record]  # of the search, and of the training that went on with its best
    best: Record
    outcome: Outcome | None  # of the confirmation; None: the result is unconfirmed
    unconfirmed: str  # why; empty if it is confirmed
    ended: str | None  # why the search ended before its last trial

    @property
    def is_trained_on(self) -> bool:
        """Whether the best trial is one that went on after the confirmation."""
        return self.outcome is not None and self.best.name != self.outcome.best.name

    def describe_confirmation(self) -> dict[str, Any]:
        """What result.json holds of it."""
        if self.outcome is None:
            return {"status": "unconfirmed", "reason": self.unconfirmed}
        status = "trained on since" if self.is_trained_on else "confirmed"
        return {"status": status, **self.outcome.describe()}


def choose_best(sweep: Sweep, job: Job, records: list[Record], limits: Limits, goals: Goals) -> Found:
    """The best configuration by the search, by the confirmation if there is one, and trained on if that was asked for.

    Raises:
        UserError: If no trial completed; lists why.
    """
    trials = Path(job.out) / "trials.parquet"
    write_trials(trials, records, sweep.base)
    best, reason = pick(records, goals), None
    if sum(record.status != "running" for record in records) < sweep.num_trials:
        reason = (limits.search_share() if sweep.confirmation.num_best else limits).reached(records)
    if reason:
        logger.warning("the search has ended: %s", reason)
    if best is None:
        told = f" ({reason})" if reason else ""
        raise UserError(f"no trial was completed{told}:\n{format_failures(records)}")
    found = confirm_best(records, best, job, sweep.confirmation, limits)
    outcome, unconfirmed = (None, found) if isinstance(found, str) else (found, "")
    if outcome is None:
        logger.warning("unconfirmed: %s", unconfirmed)
    best = outcome.best if outcome else best
    online = continue_online(best, job, sweep.then_online) if sweep.then_online is not None else None
    if online is not None:
        logger.info("%s", describe_online(best, online))
        records = [*records, online]
        write_trials(trials, records, sweep.base)
        best = best_record([best, online]) or best
    return Found(records=records, best=best, outcome=outcome, unconfirmed=unconfirmed, ended=reason)


def describe_choice(found: Found, goals: Goals) -> list[str]:
    """How the best configuration was chosen, for people."""
    notes = [f"the search ended early: {found.ended}"] if found.ended else []
    if goals.groups:
        notes.append(format_front(found.records, goals))
    if found.outcome:
        notes.append(format_outcome(found.outcome))
        if found.is_trained_on:
            notes.append(f"{found.best.name} was trained on after the confirmation, which says nothing of it")
        return notes
    too_high = "the score of the best trial is the largest of many, and too high"
    return [*notes, f"unconfirmed ({found.unconfirmed}): {too_high}"]


def score_test_set(best: Record, job: Job, root: Path, *, skip_missing: bool) -> dict[str, dict[str, float]]:
    """Score a trial on `testSet` and export it, unless that was done before."""
    metrics = read_result(Path(job.out), best)
    if metrics is None:
        use = record_use(Path(job.out), trial=best.name, config=job.configure(best.parameters))
        job.push()  # before the use: whoever continues without this folder must know of it
        # Where a worker's GPU is: the script itself may run on a head node that has none.
        gpus = job.resources.gpus_per_worker
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(finish_best)  # type: ignore[arg-type]
        metrics = ray.get(task.remote(best, job, root, use=use, skip_missing=skip_missing))
    return metrics


def finish_best(best: Record, job: Job, root: Path, *, use: Use, skip_missing: bool) -> dict[str, dict[str, float]]:
    """Load a trial's best weights and finish it (`final_test.run_final_test`)."""
    config, prepared = job.configure(best.parameters), load_prepared(Path(job.cache))
    place = local_place(config)
    if job.store is not None:
        place = replace(place, share_pairs=make_scorer(job.store, prepared, f"finish/{best.name}"))
    trainer = make_trainer(config, prepared, plan_of(config, prepared), place)
    load_finished(trainer, job.checkpoint(best))
    truth = read_truth(root, prepared, use=use, skip_missing=skip_missing)
    return run_final_test(config, prepared, truth, trainer.restore_best(), Path(job.out), place)
