"""Ray Train: one trial on its workers, fed by Ray Data.

`run_trial` is the driver that Ray Tune starts; `train_worker` is what each of its workers runs.
"""

import json
import os
import posixpath
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.tune
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.tune.integration.ray_train import TuneReportCallback

from reid_core.boundary import check_keepable
from reid_core.checksums import replace_file
from reid_core.config import TrialConfig, UserError, flatten, override
from reid_core.environment import describe_environment
from reid_core.experiment import (
    Place,
    epoch_evaluation,
    evaluate_fully,
    keep_activations,
    kept_batches,
    make_trainer,
    plan_of,
    rest_of,
    source_of,
)
from reid_core.images import ImageCache
from reid_core.matching import SYMMETRIC, score_settings
from reid_core.model import make_model
from reid_core.pair_store import store_name
from reid_core.prepare import Prepared, load_prepared
from reid_core.train import KEPT_CHECKPOINTS, SCORE, Evaluate, Trainer, TrainingError
from sweeps.checkpoints import clear_for_restart, continue_newest, fetch, list_checkpoints, upload
from sweeps.failures import describe_failure, judge
from sweeps.job import Job
from sweeps.progress import TOLD_BEFORE
from sweeps.searcher import FAILED, FINAL, UNSCORED
from sweeps.storage import StorageError
from sweeps.store import Counts, SharedScorer, release_pairs, start_store
from sweeps.stream import stream_batches

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


def train_worker(settings: dict[str, Any]) -> None:
    """Train, reporting a checkpoint per epoch, then evaluate the best epoch in full. Runs on every worker alike.

    The epochs that a resumed trial has behind it are reported again: a new session's scheduler knows nothing of them,
    and a kill can come between a checkpoint and the note of its epoch.

    A loss that is not a number would be so again: it is reported, on all ranks alike, and not raised, because Ray would
    then start the workers anew.
    """
    config = override(TrialConfig(), settings["config"])
    prepared = load_prepared(Path(settings["cache"]))
    place, counts = train_place(), Counts()
    if settings["store"] is not None:
        scorer = make_scorer(settings["store"], prepared, f"{settings['name']}/{place.rank}")
        place, counts = replace(place, share_pairs=scorer), scorer.counts
    if place.device == "cpu":
        torch.set_num_threads(1)
    plan = plan_of(config, prepared, world_size=place.world_size)
    trainer = make_trainer(config, prepared, plan, place)
    filesystem, folder = settings["checkpoints"]
    if not continue_newest(trainer, list_checkpoints(filesystem, folder)) and settings["start"]:
        with fetch(Checkpoint(settings["start"], filesystem=filesystem)) as start:
            trainer.start_from(start)
    source = source_of(config, prepared)
    place = keep_activations(config, prepared, trainer, place)
    rest, retries = rest_of(plan, trainer), {"retries": settings["retries"]}
    tell = partial(_report, trainer, place.rank, partial(upload, filesystem, folder))
    for report in trainer.history:
        ray.train.report(report | retries | {TOLD_BEFORE: True})
    kept = kept_batches(rest, source, trainer, config, place)
    batches = kept or stream_batches(rest, source, rank=place.rank, data_cpus=settings["data_cpus"])
    only_train = settings["only_train"]
    evaluate = epoch_evaluation(config, prepared, place) if only_train is None else prefer_last(trainer)
    try:
        for report in islice(trainer.fit(batches, evaluate), only_train and max(0, only_train - len(trainer.history))):
            tell(report | retries)
    except TrainingError as error:
        return tell({"epoch": 0, SCORE: float("nan"), FAILED: str(error), "status": "failed"})
    if only_train is not None:
        return tell({"epoch": 0, SCORE: float("nan"), UNSCORED: True, "history": trainer.history})
    _, metrics = evaluate_fully(config, prepared, trainer.restore_best(), place)
    metrics |= sum_counts(counts, place)
    best = trainer.best if trainer.history else {"epoch": 0, SCORE: float("nan")}
    full = {"metrics": metrics, "objective": metrics[config.threshold.objective], "history": trainer.history}
    return tell({"epoch": best["epoch"], SCORE: best[SCORE], **full})


def prefer_last(trainer: Trainer) -> Evaluate:
    """An evaluation where nothing can be measured: the last epoch counts as the best."""
    return lambda model: {SCORE: float(len(trainer.history)), "loss_validating": -float(len(trainer.history))}


def train_place() -> Place:
    """This worker's place in its trial."""
    context = ray.train.get_context()
    return Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=str(get_device()),
        gather=gather_arrays,
        wrap=lambda model: prepare_model(model, move_to_device=False),
    )


def open_store(config: TrialConfig, prepared: Prepared, folder: Path, *, device: str) -> Any:
    """The pair store of a sweep whose trials score on a device, or None where nothing is matched."""
    if config.match.matcher == "none" or prepared.features is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    digest = store_name(score_settings(config.match, device=device))
    return start_store(folder, digest, symmetric=config.match.matcher in SYMMETRIC)


def make_scorer(store: Any, prepared: Prepared, owner: str) -> SharedScorer:
    """The way of one process to the pair store."""
    return SharedScorer(store, ImageCache(Path(prepared.match_cache)).keys, owner)


def sum_counts(counts: Counts, place: Place) -> dict[str, float]:
    """`pairs_hits`, `pairs_misses`, `pairs_scored` of a trial: over all its workers."""
    mine = np.array([[counts.hits, counts.misses, counts.scored]], dtype=float)
    names = ("pairs_hits", "pairs_misses", "pairs_scored")
    return dict(zip(names, place.gather(mine).sum(axis=0).tolist(), strict=True))


def gather_arrays(array: np.ndarray) -> np.ndarray:
    """Concatenate every rank's array, in the order of ranks, on every rank."""
    if not torch.distributed.is_initialized():
        return array
    # Not `all_gather_object`, which unpickles what other processes send.
    mine = torch.tensor(array, device=get_device())
    sizes = [torch.zeros(1, dtype=torch.int64, device=mine.device) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(sizes, torch.tensor([len(mine)], device=mine.device))
    longest = int(max(sizes))
    padded = torch.zeros((longest, *mine.shape[1:]), dtype=mine.dtype, device=mine.device)
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    return np.concatenate([part[: int(size)].cpu().numpy() for part, size in zip(parts, sizes, strict=True)])


def _report(trainer: Trainer, rank: int, keep: Callable[[Checkpoint, str], Checkpoint], report: dict[str, Any]) -> None:
    """Every rank reports equally often (it is a barrier); only rank 0 writes a checkpoint."""
    if rank != 0:
        ray.train.report(report)
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(Path(folder))
        ray.train.report(report, checkpoint=Checkpoint.from_directory(folder), checkpoint_upload_fn=keep)


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
