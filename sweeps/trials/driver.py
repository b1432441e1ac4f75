"""Ray Train: one trial on its workers, fed by Ray Data.

`run_trial` is the driver that Ray Tune starts; `train_worker` is what each of its workers runs.
"""

import json
import os
import posixpath
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.tune
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.tune.integration.ray_train import TuneReportCallback

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten
from reid_core.errors import UserError
from reid_core.experiment.environment import describe_environment
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import training_data_of
from reid_core.files.atomic import replace_file
from reid_core.matching.matchers import SYMMETRIC, score_settings
from reid_core.matching.pairs.store import store_name
from reid_core.model.frozen.boundary import check_keepable
from reid_core.model.reid_model import outline_model
from reid_core.training.trainer import KEPT_CHECKPOINTS, SCORE
from sweeps.machines.resources import Resources
from sweeps.results.storage import StorageError
from sweeps.search.journal_writer import FAILED, FINAL, UNSCORED
from sweeps.search.suggestion import Suggestion
from sweeps.trials.checkpoints import clear_for_restart, list_checkpoints
from sweeps.trials.context import SweepContext
from sweeps.trials.failures import describe_failure, judge
from sweeps.trials.pair_actor import release_pairs, start_pair_store
from sweeps.trials.settings import WorkerSettings
from sweeps.trials.worker import train_worker

FINAL_KEYS = ("metrics", "objective", "history", FAILED, UNSCORED, "status")
STATUS_OF = {"infeasible": "infeasible", "failed": "failed", "again": "failed", "stop": "stopped"}  # by verdict
MAX_RETRIES = 2  # of a trial whose worker was lost, say: it continues from its last epoch
FAILURES = FailureConfig(
    max_failures=0,  # whether another attempt can help is decided by `failures.judge`
    max_preemption_failures=-1,  # type: ignore[call-arg]  # for ever: a preempted node is no failure
    controller_failure_limit=3,  # type: ignore[call-arg]  # Ray's default is to retry for ever
)


def run_trial(suggestion: Suggestion, *, context: SweepContext) -> None:
    """Drive one trial: start its workers, pass on their reports, and send a final report of the full evaluation.

    A trial that cannot succeed reports why instead of raising, so that the reason reaches the journal.
    """
    context = replace(context, cache=suggestion.cache or context.cache)
    name_cluster()
    try:
        config = context.configure(suggestion.parameters)
        check_model(config)
        # Fails now if its batches cannot be made; offline variants are made here once, not by every worker.
        training_data_of(config, load_prepared(Path(context.cache)), world_size=context.resources.workers)
        _describe_trial(context, suggestion.name, config)
        final = train_until_it_ends(make_settings(suggestion, config, context), context)
    except StorageError as error:
        final = {FAILED: str(error), "status": STATUS_OF["stop"]}
    except UserError as error:
        final = {FAILED: str(error), "status": STATUS_OF["infeasible"]}
    finally:
        if context.pair_store is not None:
            release_pairs(context.pair_store, suggestion.name)
    # Epoch 0 is below every rung: the scheduler has nothing to decide on a final report.
    ray.tune.report({FINAL: True, "epoch": 0, SCORE: float("nan"), **final})


def name_cluster() -> None:
    """Give the processes of this trial the address of their Ray.

    The one that frees what a pruned trial held looks for a Ray on its machine; where two run, it ends with an error,
    and the next trial would wait for ever for what is never freed.
    """
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def make_settings(suggestion: Suggestion, config: TrialConfig, context: SweepContext) -> WorkerSettings:
    """What the trial's workers get."""
    return WorkerSettings(
        config=config,
        name=suggestion.name,
        cache=context.cache,
        filesystem=context.filesystem,
        checkpoint_folder=context.checkpoint_folder(suggestion.name),
        resources=context.resources,
        pair_store=context.pair_store,
        start=suggestion.start,
        only_train=suggestion.only_train,
    )


def train_until_it_ends(settings: WorkerSettings, context: SweepContext) -> dict[str, Any]:
    """Train; after a failure that may not come again, continue from the last checkpoint, up to `MAX_RETRIES` times.

    A preempted node counts as no failure: Ray Train itself waits for another. A full disk or a lost storage is no
    trial's fault: this one is stopped, and the sweep ends (`Limits.reached`).

    Returns:
        What the final report holds; `retries` is how often training failed and was tried again.

    Raises:
        StorageError: If the storage is lost.
    """
    context.check_storage()
    for retries in range(MAX_RETRIES + 1):
        clear_for_restart(settings.filesystem, settings.checkpoint_folder)
        try:
            result = make_torch_trainer(replace(settings, retries=retries), context.resources).fit()
        except TrainingFailedError as error:
            verdict, reason = judge(error), describe_failure(error)
            if verdict == "again":
                context.check_storage()
                if retries < MAX_RETRIES:
                    continue
            tried = f" (tried {retries + 1} times)" if retries else ""
            return {FAILED: reason + tried, "status": STATUS_OF[verdict], "retries": retries}
        break
    assert result.metrics is not None
    final = {key: result.metrics[key] for key in FINAL_KEYS if key in result.metrics}
    return {**final, "checkpoint_path": result.checkpoint.path if result.checkpoint else "", "retries": retries}


def check_model(config: TrialConfig) -> None:
    """Find out before any worker is started whether the model can be made, and its activations kept if they are to be.

    Raises:
        UserError: If they cannot.
    """
    if config.model.keep_activations:
        check_keepable(config.model)
    outline_model(config)


def make_torch_trainer(settings: WorkerSettings, resources: Resources) -> TorchTrainer:
    """The trial's TorchTrainer. Its run name is the trial's, so Train itself continues from the last checkpoint."""
    gpus = resources.gpus_per_worker
    return TorchTrainer(
        partial(train_worker, settings),  # `train_loop_config` would have to be a dictionary
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": 1, **({"GPU": gpus} if gpus else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name=settings.name,
            storage_path=posixpath.dirname(settings.checkpoint_folder),
            storage_filesystem=settings.filesystem,
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            failure_config=FAILURES,
        ),
    )


def open_pair_store(config: TrialConfig, prepared: Prepared, folder: Path, resources: Resources) -> Any:
    """The pair store of a sweep whose trials score on a device, or None where nothing is matched."""
    if config.match.matcher == "none" or prepared.features is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    digest, symmetric = (
        store_name(score_settings(config.match, device=resources.device)),
        config.match.matcher in SYMMETRIC,
    )
    return start_pair_store(folder, digest, symmetric=symmetric, patience_s=resources.patience_s)


def _describe_trial(context: SweepContext, name: str, config: TrialConfig) -> None:
    folder = context.trial_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    described, file = json.dumps(flatten(config), indent=1), folder / "config.json"
    before = file.read_text(encoding="utf-8") if file.exists() else None
    if before not in (None, described):  # of a trial whose record was lost
        for checkpoint in list_checkpoints(context.filesystem, context.checkpoint_folder(name)):
            context.filesystem.delete_dir(checkpoint.path)
    if before != described:
        replace_file(file, described.encode())
    (folder / "environment.json").write_text(
        json.dumps(describe_environment() | {"seed": config.seed}, indent=1), encoding="utf-8"
    )
