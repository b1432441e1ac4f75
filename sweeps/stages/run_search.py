"""The search of a sweep, on Ray Tune.

`Sweep` → data prepared once, and what the trials share → trials → their records in the journal.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from reid_core.data.animals import positions_by_group
from reid_core.experiment.prepare import LOCAL, Spread, prepare
from reid_core.experiment.prepared import Prepared
from reid_core.experiment.training_setup import plan_of
from reid_core.model.reid_model import describe_model
from sweeps.machines.connect import on_cluster
from sweeps.machines.limits import Limits
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record
from sweeps.results.mirror import Mirror
from sweeps.results.result_folder import CACHE, PAIR_STORE, open_journal
from sweeps.search.goals import Goals
from sweeps.search.optuna_search import JournalSearch, epoch_scores
from sweeps.search.priors import load_priors
from sweeps.search.search_flag import choices_of
from sweeps.stages.definition import Sweep
from sweeps.stages.groups.exchange import load_tried
from sweeps.trials.context import SweepContext
from sweeps.trials.shared_scorer import open_pair_store
from sweeps.trials.slots.pool import Pool
from sweeps.trials.stream import ray_map
from sweeps.trials.tuning import reopen, run_tuner

logger = logging.getLogger(__name__)


def choose_spread(resources: Resources) -> Spread:
    """Where data are prepared: on one machine in this process, which is there already; on a cluster on its nodes.

    A network goes where the GPUs are.
    """
    chunks = partial(ray_map, patience_s=resources.patience_s)
    networks = partial(chunks, gpus_per_worker=resources.gpus_per_worker)
    if on_cluster():
        return Spread(chunks, networks)
    return Spread(networks=networks) if resources.gpus_per_worker else LOCAL


def prepare_trials(
    sweep: Sweep, root: Path, out: Path, pool: Pool, mirror: Mirror | None
) -> tuple[Prepared, SweepContext]:
    """What is done once before the first trial, and what the trials share.

    Slots start meanwhile if preparing asks Ray for nothing; else those of the group before give back what they hold.
    """
    resources, spread = pool.resources, choose_spread(pool.resources)
    if spread is LOCAL:
        pool.provide(count_left(sweep, open_journal(out).read()))
    else:
        pool.close()
    prepared = prepare(
        root,
        out / CACHE,
        sweep.base,
        reading=sweep.reading,
        group=sweep.group,
        second_models=[name for name in choices_of(sweep.space.searched, "fusion.second_model") if name],
        spread=spread,
    )
    # They were checked before (`checks`), but some photographs may have turned out to be unreadable.
    plan_of(sweep.base, prepared, world_size=resources.workers)
    logger.info("%s", describe_model(sweep.base, num_identities=len(prepared.classes()[0])))
    folder = Path(sweep.pair_store) if sweep.pair_store else out / PAIR_STORE
    pair_store = open_pair_store(sweep.base, prepared, folder, resources)
    return prepared, SweepContext(sweep.base, str(out), str(out / CACHE), resources, pair_store, mirror, pool)


def make_goals(sweep: Sweep, prepared: Prepared) -> Goals:
    """What is maximised; a group without known or without new animals in `thresholdSet` is no goal."""
    if not sweep.each_group:
        return Goals(sampler=sweep.sampler)
    queries = prepared.parts.rows("thresholdSet")
    known_Q, group_Q = prepared.parts.known(queries), prepared.parts.group_N[queries]
    groups = [group for group, rows in positions_by_group(group_Q) if 0 < known_Q[rows].mean() < 1]
    return Goals(groups=tuple(groups), sampler=sweep.sampler)


def run_search(sweep: Sweep, context: SweepContext, limits: Limits, goals: Goals) -> list[Record]:
    """Run what is left of the sweep's trials, within the search's share of its limits; the records of all trials."""
    journal, limits = open_journal(Path(context.out)), sweep.search_limits(limits)
    before = reopen(journal)
    left, num_ended = count_left(sweep, before), sum(record.has_ended for record in before)
    if not left or limits.reached(before):
        return before
    num_trials = num_ended + left
    if num_trials < sweep.num_trials:
        logger.info("--trials %d: the search space has no more than %d", sweep.num_trials, num_trials)
    if before:
        logger.info("resuming: %d of %d trials have ended", num_ended, num_trials)
    priors = load_priors(Path(context.out), sweep.warm_start, sweep.space, goals)
    priors += load_tried(Path(context.out), sweep)
    run_tuner(
        JournalSearch(sweep.space, journal, limits, goals, priors),
        context,
        num_left=left,
        num_trials=num_trials,
        limits=limits,
        # With several goals no single score says which trial is hopeless.
        scheduler=None if goals.groups else make_scheduler(sweep.space.most_epochs(), before),
    )
    return journal.read()


def count_left(sweep: Sweep, records: Sequence[Record]) -> int:
    """How many trials are left to be run, or to be ended, at least 0: no configuration is tried twice.

    Args:
        sweep: Its definition.
        records: Of its search.
    """
    num_unended = sum(not record.has_ended for record in records)
    left = max(0, sweep.num_trials - (len(records) - num_unended))
    listed = sweep.space.all_configurations()
    if listed is None:
        return left
    # A record may lie outside: an earlier session left out other values.
    tried = {sweep.space.identify(record.parameters) for record in records}
    untried = {sweep.space.identify(values) for values in listed} - tried
    return min(left, len(untried) + num_unended)


def first_rung(epochs: int) -> int | None:
    """The epoch after which ASHA first stops trials: a quarter of them, but never the first one, which is mostly noise.

    Args:
        epochs: The most that a trial has.

    Returns:
        None where that would be the last epoch: what is left then is the full evaluation.

    Example:
        >>> {epochs: first_rung(epochs) for epochs in (1, 2, 3, 6, 11, 12, 20)}
        {1: None, 2: None, 3: 2, 6: 2, 11: 2, 12: 3, 20: 5}
    """
    rung = max(2, epochs // 4)
    return rung if rung < epochs else None


def make_scheduler(epochs: int, before: list[Record]) -> TrialScheduler | None:
    """ASHA on epochs, with the rungs that ended trials have already filled; None where nothing is to be stopped.

    `max_t` lies beyond the last epoch: at `max_t` ASHA stops a trial before its final report can be made.
    """
    rung = first_rung(epochs)
    if rung is None:
        return None
    scheduler = AsyncHyperBandScheduler(time_attr="epoch", max_t=epochs + 2, grace_period=rung, reduction_factor=2)
    for name, epoch, score in epoch_scores(before):
        scheduler._brackets[0].on_result(SimpleNamespace(trial_id=name), epoch, score)  # type: ignore[arg-type]
    return scheduler
