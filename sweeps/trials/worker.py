"""Ray Train: what each worker of a trial runs.

configuration + prepared data → reports and checkpoints of every epoch, then the full evaluation of the best one.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model

from reid_core.config.parameters import TrialConfig
from reid_core.data.image_cache import ImageCache
from reid_core.errors import TrainingError
from reid_core.experiment.evaluation import epoch_evaluation, evaluate_fully
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import (
    keep_activations,
    kept_batches,
    make_trainer,
    rest_of,
    training_data_of,
)
from reid_core.model.place import Place
from reid_core.training.trainer import SCORE, Evaluate, Trainer
from sweeps.search.journal_writer import FAILED, REPEATED, UNSCORED
from sweeps.trials.checkpoints import continue_newest, fetch, list_checkpoints, upload
from sweeps.trials.settings import WorkerSettings
from sweeps.trials.shared_scorer import Counts, SharedScorer
from sweeps.trials.stream import stream_batches


def train_worker(settings: WorkerSettings) -> None:
    """Train, reporting a checkpoint per epoch, then evaluate the best epoch in full. Runs on every worker alike.

    The epochs that a resumed trial has behind it are reported again: a new session's scheduler knows nothing of them,
    and a kill can come between a checkpoint and the journal's record of its epoch.

    A loss that is not a number would be so again: it is reported, on all ranks alike, and not raised, because Ray would
    then start the workers anew.
    """
    config, prepared = settings.config, load_prepared(Path(settings.cache))
    place, counts = train_place(config), Counts()
    if settings.pair_store is not None:
        scorer = make_scorer(settings.pair_store, prepared, f"{settings.name}/{place.rank}")
        place, counts = replace(place, share_pairs=scorer), scorer.counts
    if place.device == "cpu":
        torch.set_num_threads(1)
    data = training_data_of(config, prepared, world_size=place.world_size)
    trainer = make_trainer(config, prepared, data.plan, place)
    filesystem, folder = settings.filesystem, settings.checkpoint_folder
    if not continue_newest(trainer, list_checkpoints(filesystem, folder)) and settings.start:
        with fetch(Checkpoint(settings.start, filesystem=filesystem)) as start:
            trainer.start_from(start)
    place = keep_activations(config, prepared, data, trainer.model, place)
    rest, retries = rest_of(data.plan, trainer), {"retries": settings.retries}
    send = partial(_send_report, trainer, place.rank, partial(upload, filesystem, folder))
    for report in trainer.history:
        ray.train.report(report | retries | {REPEATED: True})
    kept = kept_batches(rest, data.source, trainer.model, place)
    batches = kept or stream_batches(rest, data.source, rank=place.rank, resources=settings.resources)
    only_train = settings.only_train
    evaluate = epoch_evaluation(config, prepared, place) if only_train is None else prefer_last(trainer)
    num_left = None if only_train is None else max(0, only_train - len(trainer.history))
    try:
        for report in islice(trainer.fit(batches, evaluate), num_left):
            send(report | retries)
    except TrainingError as error:
        return send({"epoch": 0, SCORE: float("nan"), FAILED: str(error), "status": "failed"})
    if only_train is not None:
        return send({"epoch": 0, SCORE: float("nan"), UNSCORED: True, "history": trainer.history})
    metrics = evaluate_fully(config, prepared, trainer.restore_best(), place).metrics | sum_counts(counts, place)
    best = trainer.best if trainer.history else {"epoch": 0, SCORE: float("nan")}
    full = {"metrics": metrics, "objective": metrics[config.threshold.objective], "history": trainer.history}
    return send({"epoch": best["epoch"], SCORE: best[SCORE], **full})


def prefer_last(trainer: Trainer) -> Evaluate:
    """An evaluation where nothing can be measured: the last epoch counts as the best."""
    return lambda model: {SCORE: float(len(trainer.history)), "loss_validating": -float(len(trainer.history))}


def train_place(config: TrialConfig) -> Place:
    """This worker's place in its trial."""
    context = ray.train.get_context()
    return Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=str(get_device()),
        precision=config.optim.precision,
        gather=gather_arrays,
        wrap=lambda model: prepare_model(model, move_to_device=False),
    )


def make_scorer(pair_store: Any, prepared: Prepared, owner: str) -> SharedScorer:
    """One process's way to the pair store."""
    return SharedScorer(pair_store, ImageCache(Path(prepared.match_cache)).keys, owner)


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


def _send_report(
    trainer: Trainer, rank: int, keep: Callable[[Checkpoint, str], Checkpoint], report: dict[str, Any]
) -> None:
    """Every rank reports equally often (it is a barrier); only rank 0 writes a checkpoint."""
    if rank != 0:
        ray.train.report(report)
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(Path(folder))
        ray.train.report(report, checkpoint=Checkpoint.from_directory(folder), checkpoint_upload_fn=keep)
