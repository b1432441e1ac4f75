"""Ray Train: what each worker of a slot runs.

trials from the desk, one after the other → of each a report and a checkpoint of every epoch, then the full evaluation.
"""

import logging
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device, prepare_model

from reid_core.config.parameters import TrialConfig
from reid_core.data.image_cache import ImageCache
from reid_core.errors import TrainingError, UserError
from reid_core.experiment.epoch_zero import gain_over_epoch_zero, report_epoch_zero
from reid_core.experiment.evaluation import epoch_evaluation, evaluate_fully
from reid_core.experiment.prepared import Prepared, load_prepared
from reid_core.experiment.training_setup import (
    TrainingData,
    keep_activations,
    kept_batches,
    make_trainer,
    rest_of,
    training_data_of,
)
from reid_core.files.atomic import is_full_disk
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.place import Place, gpu_memory
from reid_core.model.reid_model import ReidModel
from reid_core.training.batches import Batch, KeptBatch
from reid_core.training.step.memory import TooLargeError, describe_step
from reid_core.training.trainer import Evaluate, Trainer
from sweeps.results.journal import OVER_GB
from sweeps.results.storage import StorageError
from sweeps.results.timeline import Laps
from sweeps.search.suggestion import EPOCH_ZERO, FAILED, REPEATED, UNSCORED
from sweeps.trials.checkpoints import CheckpointWriter, continue_newest, fetch, list_checkpoints
from sweeps.trials.settings import WorkerSettings
from sweeps.trials.shared_scorer import Counts, SharedScorer
from sweeps.trials.slots.alone import alone, measure_memory, settle
from sweeps.trials.slots.desk import Task
from sweeps.trials.slots.laps import timed_batches, timed_evaluation
from sweeps.trials.stream import stream_batches

MOST_GROWTH = 2**30  # bytes by which a worker may be larger between trials than it was after its first
logger = logging.getLogger(__name__)


def serve(slot: Any, *, most_growth: int = MOST_GROWTH) -> None:
    """Run the trials that come to a slot's desk, until there are no more, or this process has grown too much.

    What is wrong with a trial for all ranks alike is reported, and the next one is taken. Any other exception ends this
    process and those of the other ranks, which may wait for it: so nothing of a broken trial is left.

    Args:
        slot: Handle of the slot's actor.
        most_growth: Bytes that memory may have grown by since the first trial.
    """
    settle()
    group, number, first = join(slot), 0, None
    while True:
        number, settings = ray.get(slot.take.remote(group, number))
        if settings is None:
            return
        if isinstance(settings, Task):
            do_alone(settings, slot, number)
            continue
        line = Line(slot, number, train_place(settings))
        run_alone(settings, line)
        size = measure_memory()
        first = size if first is None else first
        if line.place.gather(np.array([int(size - first > most_growth)])).any():
            logger.info("rank %d: %.1f GB after %s: this slot gets new workers", line.place.rank, size / 1e9, number)
            return


def do_alone(task: Task, slot: Any, number: int) -> None:
    """One rank does it; the others are not needed."""
    if ray.train.get_context().get_world_rank() == 0:
        with alone(0, str(get_device())):
            outcome = task.run()
        ray.get(slot.report.remote(number, outcome, is_last=True))


def join(slot: Any) -> int:
    """The number of this group of workers, the same on every rank; those of an earlier one get no more work."""
    is_first = ray.train.get_context().get_world_rank() == 0
    return int(gather_arrays(np.array([ray.get(slot.new_group.remote()) if is_first else 0]))[0])


@dataclass(frozen=True)
class Line:
    """One rank's connection with the desk, in one attempt of a trial."""

    slot: Any
    number: int  # of the attempt
    place: Place

    def send(self, report: dict[str, Any]) -> bool:
        """Report, the same on every rank; whether the trial is to go on, the same on every rank."""
        is_wanted = True
        if self.place.rank == 0:
            is_wanted = ray.get(self.slot.report.remote(self.number, report))
        return bool(self.place.gather(np.array([int(is_wanted)])).all())

    def send_last(self, report: dict[str, Any]) -> None:
        """The trial's last report."""
        if self.place.rank == 0:
            ray.get(self.slot.report.remote(self.number, report, is_last=True))

    def give_up(self, error: Exception, status: str) -> bool:
        """Report what the trial failed of if every rank gives it up; False if another may still be at work on it."""
        agreed = ray.get(self.slot.agree.remote(self.number, self.place.rank))
        if agreed:
            over = {OVER_GB: error.over_gb} if isinstance(error, TooLargeError) else {}
            self.send_last({FAILED: str(error), "status": status, **over})
        return agreed


def run_alone(settings: WorkerSettings, line: Line) -> None:
    """Run one trial as if this process had been started for it, and leave nothing of it behind.

    Raises:
        Exception: Whatever it failed of, unless all ranks gave it up with an error of a kind that they have in common.
    """
    with alone(settings.config.seed, line.place.device):
        try:
            train_trial(settings, line)
        except TrainingError as error:
            if not line.give_up(error, "failed"):
                raise
        except UserError as error:
            if isinstance(error, StorageError) or is_full_disk(error) or not line.give_up(error, "infeasible"):
                raise


def train_trial(settings: WorkerSettings, line: Line) -> None:
    """Train, reporting every epoch after its checkpoint, then evaluate the best epoch in full; on every rank alike.

    The epochs that a resumed trial has behind it are reported again: a new session's scheduler knows nothing of them,
    and a kill can come between a checkpoint and the journal's record of its epoch.

    Raises:
        TrainingError: If the loss is not a number, on all ranks alike.
    """
    laps = Laps()
    config, prepared = settings.config, load_prepared(Path(settings.cache))
    place, counts = line.place, Counts()
    if settings.pair_store is not None:
        scorer = make_scorer(settings.pair_store, prepared, f"{settings.name}/{place.rank}")
        place, counts = replace(place, share_pairs=scorer), scorer.counts
    data = training_data_of(config, prepared, world_size=place.world_size)
    is_scored = settings.only_train is None
    zero = {EPOCH_ZERO: report_epoch_zero(config, prepared, place)} if is_scored else {}
    trainer = make_trainer(config, prepared, data.plan, place)
    writer = load_checkpoint(trainer, settings, place)
    place = keep_activations(config, prepared, data, trainer.model, place)
    about = describe_step(trainer.config, place, num_identities=len(prepared.classes()[0]))
    more = {"retries": settings.retries, **about, **zero}
    if not all(line.send(report | more | {REPEATED: True}) for report in list(trainer.history)):
        return
    evaluate = epoch_evaluation(config, prepared, place) if is_scored else prefer_last(trainer)
    laps.lap("model")
    with closing(train_epochs(trainer, settings, data, place, evaluate, laps)) as reports:
        for report in reports:
            if writer:
                writer.save(trainer)
            laps.lap("checkpoints")
            is_wanted = line.send(report | more)
            laps.lap("verdict")
            if writer:
                laps.write(Path(settings.folder))
            if not is_wanted:
                return
    last = score_fully(config, prepared, trainer.restore_best(), place, counts) if is_scored else {UNSCORED: True}
    laps.lap("full evaluation")
    checkpoint = writer.save(trainer) if writer else ""
    laps.lap("checkpoints")
    if writer:
        laps.write(Path(settings.folder))
    line.send_last({**last, **about, **zero, "history": trainer.history, "checkpoint_path": checkpoint})


def score_fully(
    config: TrialConfig, prepared: Prepared, model: ReidModel, place: Place, counts: Counts
) -> dict[str, Any]:
    """`metrics` of the full chain, with the gain over epoch 0, and the `objective` among them."""
    decided = evaluate_fully(config, prepared, model, place)
    gain = gain_over_epoch_zero(config, prepared, decided, place)
    metrics = decided.metrics | gain | sum_counts(counts, place)
    return {"metrics": metrics, "objective": metrics[config.threshold.objective]}


def load_checkpoint(trainer: Trainer, settings: WorkerSettings, place: Place) -> CheckpointWriter | None:
    """Continue from the trial's last checkpoint, or begin from another trial's weights; who writes the next, if we do.

    Raises:
        UserError: If the weights are not there.
    """
    filesystem, folder = settings.filesystem, settings.checkpoint_folder
    if not continue_newest(trainer, list_checkpoints(filesystem, folder)) and settings.start:
        with fetch(Checkpoint(settings.start, filesystem=filesystem)) as start:
            trainer.start_from(start)
    return CheckpointWriter(filesystem, folder) if place.rank == 0 else None


def train_epochs(
    trainer: Trainer, settings: WorkerSettings, data: TrainingData, place: Place, evaluate: Evaluate, laps: Laps
) -> Generator[dict[str, Any]]:
    """The reports of the epochs that are left; however it ends, what made the batches has ended too."""
    rest = rest_of(data.plan, trainer)
    num_left = None if settings.only_train is None else max(0, settings.only_train - len(trainer.history))
    with ExitStack() as stack:
        batches: Iterator[Batch | KeptBatch] | None = kept_batches(rest, data.source, trainer.model, place)
        if batches is None:
            batches = stream_batches(rest, data.source, rank=place.rank, resources=settings.resources)
        stack.enter_context(closing(batches))  # type: ignore[type-var]
        timed = trainer.fit(timed_batches(batches, laps), timed_evaluation(evaluate, laps))
        epochs = stack.enter_context(closing(timed))  # type: ignore[type-var]
        yield from islice(epochs, num_left)


def prefer_last(trainer: Trainer) -> Evaluate:
    """An evaluation where nothing can be measured: the last epoch counts as the best."""
    return lambda model: {SCORE: float(len(trainer.history)), "loss_validating": -float(len(trainer.history))}


def train_place(settings: WorkerSettings) -> Place:
    """This worker's place in its trial."""
    context, device, resources = ray.train.get_context(), str(get_device()), settings.resources
    memory_bytes = resources.gpu_bytes_per_worker
    if memory_bytes is None and (whole := gpu_memory(device)):
        memory_bytes = int(whole * min(1.0, resources.gpus_per_worker))
    return Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=device,
        memory_bytes=memory_bytes,
        halvings=settings.halvings,
        precision=settings.config.optim.precision,
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
