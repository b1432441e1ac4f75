"""Ray Tune's part: trials that a searcher suggests are run, a few at a time, and the journal has their results.

searcher + what the trials share → journal, trials.parquet.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from reid_core.train import SCORE
from sweeps.journal import Journal
from sweeps.progress import Progress
from sweeps.resources import driver_resources
from sweeps.searcher import FixedSearch
from sweeps.trial import Job, run_trial


def run_tuner(
    searcher: Searcher,
    job: Job,
    journal: Journal,
    *,
    num_left: int,
    num_trials: int,
    scheduler: TrialScheduler | None = None,
    drive: Callable[..., None] = run_trial,
) -> None:
    """Run the trials that a searcher suggests.

    Args:
        searcher: Writes the journal.
        job: What the trials share; `job.out` gets trials.parquet.
        journal: Of the searcher.
        num_left: Trials to run now.
        num_trials: Those and the ones that ended before, for the progress bar.
        scheduler: Stops trials early; None: every trial runs to its end.
        drive: Drives one trial, as `trial.run_trial`.
    """
    random.seed(job.base.seed)
    np.random.seed(job.base.seed)  # Ray's scheduler draws from the global generator
    sessions = Path(job.out) / "tune"
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(drive, job=job), driver_resources(ray.cluster_resources())),
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode="max",
            num_samples=num_left,
            max_concurrent_trials=job.resources.concurrent,
            search_alg=searcher,
            scheduler=scheduler,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray.tune.RunConfig(
            name=f"session-{len(list(sessions.glob('session-*'))):03d}",
            storage_path=str(sessions),
            verbose=0,
            callbacks=[Progress(num_trials, job.base, journal, Path(job.out))],
        ),
    )
    tuner.fit()


def run_fixed(
    suggestions: Sequence[dict[str, Any]],
    job: Job,
    journal: Journal,
    *,
    drive: Callable[..., None] = run_trial,
) -> None:
    """Run given trials to their ends, `job.resources.concurrent` at a time; those that ended before are not repeated.

    Args:
        suggestions: Trials with different names (`FixedSearch`); their parameters go on top of `job.base`.
        job: What the trials share; `job.out` gets their folders and trials.parquet.
        journal: Gets their records; of `job.out`/trials, where the trials' own folders are.
        drive: Drives one trial, as `trial.run_trial`.

    Raises:
        UserError: If the journal holds a trial of the same name with other parameters.
    """
    searcher = FixedSearch(suggestions, journal)
    num_left = len(searcher.left)
    if num_left:
        run_tuner(searcher, job, journal, num_left=num_left, num_trials=len(suggestions), drive=drive)
