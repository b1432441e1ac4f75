"""Ray Train: one trial on its workers, fed by Ray Data.

`run_trial` is the driver that Ray Tune starts; `train_worker` is what each of its workers runs.
"""

import json
import os
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.tune.integration.ray_train import TuneReportCallback

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, override
from reid_core.errors import UserError
from reid_core.experiment.environment import describe_environment
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import plan_of, source_of
from reid_core.files.atomic import replace_file
from reid_core.matching.matchers import SYMMETRIC, score_settings
from reid_core.matching.pairs.store import store_name
from reid_core.model.frozen.boundary import check_keepable
from reid_core.model.reid_model import make_model
from reid_core.training.trainer import KEPT_CHECKPOINTS, SCORE
from sweeps.results.storage import StorageError
from sweeps.search.notes import FAILED, FINAL, UNSCORED
from sweeps.trials.checkpoints import clear_for_restart, list_checkpoints
from sweeps.trials.failures import describe_failure, judge
from sweeps.trials.job import Job
from sweeps.trials.pair_actor import release_pairs, start_store
from sweeps.trials.worker import train_worker

FINAL_KEYS = ("metrics", "objective", "history", FAILED, UNSCORED, "status")
STATUS_OF = {"infeasible": "infeasible", "failed": "failed", "again": "failed", "stop": "running"}
MAX_RETRIES = 2  # of a trial whose worker was lost, say: it continues from its last epoch
FAILURES = FailureConfig(
    max_failures=0,  # whether another attempt can help is decided by `failures.judge`
    max_preemption_failures=-1,  # type: ignore[call-arg]  # for ever: a preempted node is no failure
    controller_failure_limit=3,  # type: ignore[call-arg]  # Ray's default is to retry for ever
)


def run_trial(suggestion: dict[str, Any], *, job: Job) -> None:
    """Drive one trial: start its workers, pass on their reports, and send a final report of the full evaluation.

    A trial that cannot succeed reports why instead of raising, so that the reason reaches the journal.
    """
    name, job = suggestion["name"], replace(job, cache=suggestion.get("cache", job.cache))
    name_cluster()
    try:
        config = job.configure(suggestion["parameters"])
        check_feasible(config, job)
        source_of(config, load_prepared(Path(job.cache)))  # offline variants are made here once, not by every worker
        _describe_trial(job, name, config)
        final = train_until_it_ends(
            config, name, job, start=suggestion.get("start"), only_train=suggestion.get("only_train")
        )
    except StorageError as error:
        final = {FAILED: str(error), "status": STATUS_OF["stop"]}
    except UserError as error:
        final = {FAILED: str(error), "status": STATUS_OF["infeasible"]}
    finally:
        if job.store is not None:
            release_pairs(job.store, name)
    # Epoch 0 is below every rung: the scheduler has nothing to decide on a final report.
    ray.tune.report({FINAL: True, "epoch": 0, SCORE: float("nan"), **final})


def name_cluster() -> None:
    """Tell the processes of this trial which Ray is theirs.

    The one that frees what a stopped trial held looks for a Ray on its machine; where two run, it ends with an error,
    and the next trial would wait for ever for what is never freed.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def train_until_it_ends(
    config: TrialConfig, name: str, job: Job, *, start: str | None, only_train: int | None
) -> dict[str, Any]:
    """Train; again from the last checkpoint, up to `MAX_RETRIES` times, after a failure that this can help.

    A preempted node counts as no failure: Ray Train itself waits for another. A full disk or a lost storage is no
    trial's fault: this one stays unfinished, and the sweep ends (`Limits.reached`).

    Returns:
        What the final report holds; `retries` is how often training failed and was tried again.

    Raises:
        StorageError: If the storage is lost.
    """
    job.check_storage()
    for retries in range(MAX_RETRIES + 1):
        clear_for_restart(job.filesystem, job.kept(name))
        try:
            trainer = make_torch_trainer(config, name, job, start=start, only_train=only_train, retries=retries)
            result = trainer.fit()
        except TrainingFailedError as error:
            verdict, reason = judge(error), describe_failure(error)
            if verdict == "again":
                job.check_storage()
                if retries < MAX_RETRIES:
                    continue
            tried = f" (tried {retries + 1} times)" if retries else ""
            return {FAILED: reason + tried, "status": STATUS_OF[verdict], "retries": retries}
        break
    assert result.metrics is not None
    final = {key: result.metrics[key] for key in FINAL_KEYS if key in result.metrics}
    return {**final, "checkpoint_path": result.checkpoint.path if result.checkpoint else "", "retries": retries}


def check_feasible(config: TrialConfig, job: Job) -> None:
    """Find out before any worker is started whether the batches and the model can be made.

    Raises:
        UserError: If they cannot.
    """
    plan_of(config, load_prepared(Path(job.cache)), world_size=job.resources.workers)
    if config.model.keep_activations:
        check_keepable(config.model)
    with torch.device("meta"):
        make_model(override(config, {"model.weights": "random"}))


def make_torch_trainer(
    config: TrialConfig,
    name: str,
    job: Job,
    *,
    start: str | None = None,
    only_train: int | None = None,
    retries: int = 0,
) -> TorchTrainer:
    """The trial's TorchTrainer. Its run name is the trial's, so Train itself continues from the last checkpoint.

    Args:
        config: Of the trial.
        name: Of the trial.
        job: What it shares with the others.
        start: Checkpoint of another trial whose best weights this one starts from.
        only_train: Train for so many epochs of the schedule and measure nothing: there is no query set (`refit`).
        retries: How often this failed before; told with every epoch, because a trial that is pruned has no last word.
    """
    resources = job.resources
    settings = {
        "config": flatten(config),
        "cache": job.cache,
        "data_cpus": resources.data_cpus_per_worker,
        "start": start,
        "store": job.store,
        "name": name,
        "checkpoints": (job.filesystem, job.kept(name)),
        "only_train": only_train,
        "retries": retries,
    }
    return TorchTrainer(
        train_worker,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": 1,
                **({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
            },
        ),
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=posixpath.dirname(job.kept(name)),
            storage_filesystem=job.filesystem,
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            failure_config=FAILURES,
        ),
    )


def open_store(config: TrialConfig, prepared: Prepared, folder: Path, *, device: str) -> Any:
    """The pair store of a sweep whose trials score on a device, or None where nothing is matched."""
    if config.match.matcher == "none" or prepared.features is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    digest = store_name(score_settings(config.match, device=device))
    return start_store(folder, digest, symmetric=config.match.matcher in SYMMETRIC)


def _describe_trial(job: Job, name: str, config: TrialConfig) -> None:
    folder = job.trial_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    described, file = json.dumps(flatten(config), indent=1), folder / "config.json"
    before = file.read_text() if file.exists() else None
    if before not in (None, described):  # of a trial whose record was lost
        for checkpoint in list_checkpoints(job.filesystem, job.kept(name)):
            job.filesystem.delete_dir(checkpoint.path)
    if before != described:
        replace_file(file, described.encode())
    (folder / "environment.json").write_text(json.dumps(describe_environment() | {"seed": config.seed}, indent=1))
