"""`--refit`: the chosen configuration, trained on all database images after `testSet` was scored (a trial of its own).

best trial → prepared data without query sets → one more trial, which is not evaluated → bundle in OUT/refit.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from reid_core.data.test_set import Use, record_use
from reid_core.errors import UserError
from reid_core.experiment.prepare import read_truth
from reid_core.experiment.prepared import load_prepared
from reid_core.experiment.refit import check_refittable, choose_epochs, export_refit, prepare_refit
from reid_core.experiment.training_setup import make_trainer, plan_of
from reid_core.files.checksums import CHECKSUMS
from reid_core.model.place import local_place
from sweeps.results.journal import Journal, Record
from sweeps.trials.checkpoints import load_finished
from sweeps.trials.job import Job
from sweeps.trials.tuning import run_fixed

FOLDER = "refit"  # in OUT: the bundle
TRIALS = "refit_trial"  # in OUT: journal and checkpoints


def refit_best(best: Record, runs: Sequence[Record], job: Job, root: Path, *, skip_missing: bool) -> str | None:
    """Train the best configuration on every image and export it; what was done before is not repeated.

    Args:
        best: Scored on `testSet`, exported as OUT/best.
        runs: Trainings of the same configuration, whose median best epoch is how long this one takes.
        job: Of the sweep.
        root: Data folder.
        skip_missing: As the data were prepared.

    Returns:
        None if it worked, else why the training failed.
    """
    epochs = choose_epochs([run.reports for run in runs])
    try:
        check_refittable(job.configure(best.parameters).predict)
    except UserError as error:
        return str(error)
    own = replace(job, out=str(Path(job.out) / TRIALS))
    journal, name = Journal(Path(own.out) / "trials"), f"{best.name}-refit-{epochs}"
    if (Path(job.out) / FOLDER / CHECKSUMS).is_file() and any(record.name == name for record in journal.read()):
        return None
    gpus = job.resources.gpus_per_worker
    use = record_use(Path(job.out), trial=f"{best.name} (refit)", config=job.configure(best.parameters))
    job.push()
    # Ray would try again by itself, and `testSet` be used again without a record.
    prepare_task: Any = ray.remote(num_cpus=1, max_retries=0)(open_refit)  # type: ignore[arg-type]
    cache = ray.get(prepare_task.remote(job, root, use=use, skip_missing=skip_missing))
    suggestion = {"name": name, "parameters": best.parameters, "cache": cache, "only_train": epochs}
    run_fixed([suggestion], own, journal)
    trained = next(record for record in journal.read() if record.name == name)
    if trained.status != "completed":
        return f"{trained.status}: {trained.reason}"
    export_task: Any = ray.remote(num_cpus=1, num_gpus=gpus)(export_trained)  # type: ignore[arg-type]
    ray.get(export_task.remote(trained, job, cache, epochs))
    return None


def open_refit(job: Job, root: Path, *, use: Use, skip_missing: bool) -> str:
    """Prepare the data; the identities of `testSet` are training labels now, which is recorded as a use of it."""
    truth = read_truth(root, load_prepared(Path(job.cache)), use=use, skip_missing=skip_missing)
    return str(prepare_refit(Path(job.cache), truth))


def export_trained(trained: Record, job: Job, cache: str, epochs: int) -> None:
    """Load the refitted weights and write the bundle."""
    config, prepared = job.configure(trained.parameters), load_prepared(Path(cache))
    place = local_place(config)
    trainer = make_trainer(config, prepared, plan_of(config, prepared), place)
    load_finished(trainer, job.checkpoint(trained))
    out = Path(job.out)
    export_refit(out / "best", out / FOLDER, prepared, trainer.restore_best(), place, epochs=epochs)
