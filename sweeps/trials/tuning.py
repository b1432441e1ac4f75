"""Ray Tune's part: trials that a searcher suggests are run, a few at a time, and the journal has their results.

searcher + what the trials share → journal, trials.parquet.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from reid_core.errors import UserError
from reid_core.metrics.epoch_report import SCORE
from sweeps.machines.limits import Limits
from sweeps.machines.resources import driver_resources
from sweeps.machines.waiting import Watch, watching
from sweeps.results.journal import Journal, Record
from sweeps.results.mirror import Mirror
from sweeps.results.result_folder import open_journal
from sweeps.results.storage import CONTINUES, StorageError
from sweeps.search.fixed_search import FixedSearch
from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.driver import MAX_RETRIES
from sweeps.trials.failures import continue_when_freed, find_user_error
from sweeps.trials.progress import Progress
from sweeps.trials.slots.pool import keep_slots
from sweeps.trials.slots.trainable import TrialOnSlot

LetGo = Callable[[], None]
Drive = Callable[..., None]  # (suggestion, *, context): a trial as a function of Ray Tune, without slots


def run_tuner(
    searcher: Searcher,
    context: SweepContext,
    *,
    num_left: int,
    num_trials: int,
    limits: Limits,
    scheduler: TrialScheduler | None = None,
    drive: Drive | None = None,
) -> None:
    """Run the trials that a searcher suggests; their records are in the journal, and in trials.parquet.

    Args:
        searcher: Writes the journal of `context.out`.
        context: What the trials share.
        num_left: Trials to run now.
        num_trials: Those and the ones that ended before, for the progress bar.
        limits: End the run early; the searcher knows them too.
        scheduler: Stops trials early; None: every trial runs to its end.
        drive: What a trial is, in place of `TrialOnSlot`.

    Raises:
        KeyboardInterrupt: If the user ended it.
        UserError: If the disk is full, or what the trials need was not to be had.
    """
    journal, out = open_journal(Path(context.out)), Path(context.out)
    watch = Watch(what=lambda: describe_running(journal.read()), patience_s=context.resources.patience_s)
    random.seed(context.base.seed)
    np.random.seed(context.base.seed)  # Ray's scheduler draws from the global generator
    callbacks = [Progress(num_trials, context.base, journal, out), Pushing(context.mirror), Moving(watch)]
    with _trials_on(context, num_left, drive) as (trainable, let_go):
        stopper = EndOfSweep(limits, journal, watch, let_go)
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trainable, driver_resources(ray.cluster_resources())),
            tune_config=_tune_config(searcher, scheduler, num_left, context.resources.concurrent, reuse=not drive),
            run_config=_run_config(out / "tune", stopper, callbacks),
        )
        watch.progressed()
        with watching(watch):
            fit(tuner)
    if watch.gave_up is not None:
        raise watch.gave_up
    _check_end(journal.read(), num_trials, limits)


def _tune_config(
    searcher: Searcher, scheduler: TrialScheduler | None, num_trials: int, concurrent: int, *, reuse: bool
) -> ray.tune.TuneConfig:
    return ray.tune.TuneConfig(
        metric=SCORE,
        mode="max",
        num_samples=num_trials,
        max_concurrent_trials=concurrent,
        search_alg=searcher,
        scheduler=scheduler,
        reuse_actors=reuse,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


@contextmanager
def _trials_on(context: SweepContext, num_trials: int, drive: Drive | None) -> Iterator[tuple[Any, LetGo | None]]:
    """What Ray Tune runs as a trial, and how to end all that is waited for."""
    if drive:
        yield ray.tune.with_parameters(_drive_suggested, drive=drive, context=context), None
        return
    with keep_slots(context.resources, Path(context.out), pool=context.pool) as pool:
        slots = pool.provide(num_trials)
        try:
            yield ray.tune.with_parameters(TrialOnSlot, slots=slots, context=context), pool.let_go
        finally:
            pool.clear()


def _drive_suggested(config: dict[str, Any], *, drive: Drive, context: SweepContext) -> None:
    drive(Suggestion.from_tune(config), context=context)


def _run_config(sessions: Path, stopper: ray.tune.Stopper, callbacks: list[ray.tune.Callback]) -> ray.tune.RunConfig:
    return ray.tune.RunConfig(
        name=f"session-{len(list(sessions.glob('session-*'))):03d}",
        storage_path=str(sessions),
        verbose=0,
        stop=stopper,
        failure_config=ray.tune.FailureConfig(max_failures=MAX_RETRIES),  # of a driver; it continues its run
        callbacks=callbacks,
    )


def _check_end(records: Sequence[Record], num_trials: int, limits: Limits) -> None:
    """Raise if a trial was stopped, or the user ended the run."""
    for record in records:
        if record.status == "stopped":
            message = f"{record.name} cannot go on: {record.reason}"
            raise StorageError(message if CONTINUES in message else f"{message}; once it can, {CONTINUES}")
    if sum(record.has_ended for record in records) < num_trials and limits.reached(records) is None:
        raise KeyboardInterrupt  # Tune takes the signal and returns as if all were well


def fit(tuner: ray.tune.Tuner) -> None:
    """Run Tune. An error in a callback or the searcher ends it.

    Raises:
        UserError: If the disk is full, the storage is lost, or one of our own errors caused it.
    """
    # It prints tracebacks of what it then raises.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    try:
        with continue_when_freed():
            tuner.fit()
    except UserError:
        raise
    except Exception as error:
        if cause := find_user_error(error):
            raise cause from error
        raise


def reopen(journal: Journal) -> list[Record]:
    """The records at the start of a session: what stopped a trial in the last one, a full disk, may be gone."""
    for record in journal.read():
        if record.status == "stopped":
            journal.write(replace(record, status="running", reason=""))
    return journal.read()


class Pushing(ray.tune.Callback):
    """Sends what is new in the journal to the storage, if there is one."""

    def __init__(self, mirror: Mirror | None) -> None:
        self.mirror = mirror

    def _push(self, *args: Any, **info: Any) -> None:
        if self.mirror:
            self.mirror.push()

    on_trial_start = on_trial_result = on_trial_complete = on_trial_error = on_experiment_end = _push


class Moving(ray.tune.Callback):
    """Tells a watch of every sign of life of a trial."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def _note(self, *args: Any, **info: Any) -> None:
        self.watch.progressed()

    on_trial_start = on_trial_result = on_trial_complete = on_trial_error = _note


def describe_running(records: Sequence[Record]) -> str:
    """What is waited for while trials run, in words."""
    running = [f"{record.name} (epoch {len(record.reports) + 1})" for record in records if not record.has_ended]
    return f"the next report of {', '.join(running)}" if running else "the first trial's start"


class EndOfSweep(ray.tune.Stopper):
    """Stops all trials when a limit is reached; looked at once a second, which is often enough for hours."""

    def __init__(self, limits: Limits, journal: Journal, watch: Watch, let_go: LetGo | None = None) -> None:
        self.limits, self.journal, self.watch, self.let_go = limits, journal, watch, let_go
        self._next_s, self._ended = 0.0, False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep ends now."""
        now_s = time.monotonic()
        if not self._ended and now_s >= self._next_s:
            self._next_s = now_s + 1.0
            self._ended = self.watch.gave_up is not None or self.limits.reached(self.journal.read()) is not None
            if self._ended and self.let_go:  # what waits for a slot's report would not hear that it is stopped
                self.let_go()
        return self._ended


def run_fixed(
    suggestions: Sequence[Suggestion],
    context: SweepContext,
    *,
    limits: Limits | None = None,
    drive: Drive | None = None,
) -> dict[str, Record]:
    """Run given trials to their ends, `context.resources.concurrent` at a time; what ended before is not repeated.

    Args:
        suggestions: Trials with different names (`FixedSearch`); their parameters go on top of `context.base`.
        context: What the trials share; `context.out` gets their folders, their journal and trials.parquet.
        limits: End the run early; None: nothing does.
        drive: What a trial is, in place of `TrialOnSlot`.

    Returns:
        All records of the journal by name.

    Raises:
        UserError: If the journal holds a trial of the same name with other parameters.
    """
    journal, limits = open_journal(Path(context.out)), limits or Limits(resources=context.resources)
    before = reopen(journal)
    searcher = FixedSearch(suggestions, journal, limits)
    num_left = len(searcher.left)
    if num_left and limits.reached(before) is None:
        run_tuner(searcher, context, num_left=num_left, num_trials=len(suggestions), limits=limits, drive=drive)
    return journal.by_name()
