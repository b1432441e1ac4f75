"""The training loop: a generator that yields one report per epoch and knows nothing of its caller.

model + batches + evaluation → reports; its caller saves and restores the trainer's state (paper §4.1).
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from reid_core.config.parameters import TrialConfig
from reid_core.data.table.findings import log_findings
from reid_core.errors import TrainingError, UserError
from reid_core.files.checksums import verify_checksums, write_checksums
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel
from reid_core.training.batches import Batch, KeptBatch
from reid_core.training.feed import Feed
from reid_core.training.loss import make_loss
from reid_core.training.optim import make_optimizer, make_schedule
from reid_core.training.step.gradients import Images, LossOfImages, compute_gradients
from reid_core.training.training_findings import find_in_training

KEPT_CHECKPOINTS = 2  # the last one, and the one before it in case that is damaged
CHECKPOINT = ("last.safetensors", "best.safetensors", "trainer.pt")
MEASURED = ("loss", "gradient_norm", "loss_spread")  # of an epoch's steps
logger = logging.getLogger(__name__)
Evaluate = Callable[[ReidModel], dict[str, float]]


def load_newest(trainer: "Trainer", checkpoints: Sequence[Path]) -> bool:
    """Continue from the first checkpoint that is whole; False if none is, and nothing is changed then.

    Args:
        trainer: Of the same configuration.
        checkpoints: Folders that `Trainer.save` wrote, newest first. A damaged one is logged; the trial then repeats
            an epoch.
    """
    for checkpoint in checkpoints:
        try:
            trainer.load(checkpoint)
            return True
        except UserError as error:
            logger.warning("%s; the checkpoint before it is tried", error)
    return False


class Trainer:
    """Everything that training changes: weights, optimiser, schedule, epoch counter, reports, best weights."""

    def __init__(self, config: TrialConfig, model: ReidModel, place: Place, *, steps_per_epoch: int) -> None:
        self.config, self.model, self.place = config, model.to(place.device), place
        self.steps_per_epoch = steps_per_epoch
        if place.is_gpu:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.model.checkpointing == "always":
            self.model.checkpoint_stages()
        self.optimizer = make_optimizer(config.optim, model)
        self.schedule = make_schedule(config.optim, self.optimizer, steps_per_epoch)
        self.over_pairs = config.loss.name == "triplet"
        # The triplet loss comes multiplied by the number of ranks (`loss.make_triplet_loss`).
        self.loss_scale = place.world_size if self.over_pairs else 1
        loss = make_loss(config.loss, model.classifier, world_size=place.world_size)
        self.wrapped = place.wrap(LossOfImages(self.model, loss, place))
        self.history: list[dict[str, Any]] = []  # one report per finished epoch
        self.best_state = model.trainable_state()

    @property
    def best(self) -> dict[str, Any]:
        """Report of the epoch with the best `SCORE`; the first of equals."""
        return max(self.history, key=lambda report: report[SCORE])

    def fit(self, batches: Iterator[Batch | KeptBatch], evaluate: Evaluate) -> Iterator[dict[str, Any]]:
        """Train from the epoch after the last finished one to the end, or until patience runs out or the caller stops.

        What is wrong with the training (`find_in_training`) is logged once, at its end.

        Args:
            batches: Of this rank, from the first unfinished epoch on.
            evaluate: Called on every rank after each epoch; its dictionary must hold `SCORE`, and is part of the
                report.

        Yields:
            One report per epoch: `epoch` (from 1), what `_train_epoch` and `Feed.measure` measured, `seconds`, and what
            `evaluate` gave.

        Raises:
            TrainingError: If the loss or `SCORE` is not finite.
        """
        try:
            for epoch in range(len(self.history) + 1, self.config.optim.epochs + 1):
                if self._out_of_patience():
                    return
                self._fit_epoch(epoch, batches, evaluate)
                yield self.history[-1]
        finally:
            if self.place.rank == 0:
                log_findings(find_in_training(self.history))

    def _fit_epoch(self, epoch: int, batches: Iterator[Batch | KeptBatch], evaluate: Evaluate) -> None:
        started = time.monotonic()
        feed = Feed(islice(batches, self.steps_per_epoch))
        measured = self._train_epoch(epoch, feed) | feed.measure(self.place)
        report = {"epoch": epoch, **measured, **evaluate(self.model)}
        if not math.isfinite(report[SCORE]):
            raise TrainingError(f"{SCORE} is {report[SCORE]} after epoch {epoch}")
        self.history.append({**report, "seconds": time.monotonic() - started})
        if self.best["epoch"] == epoch:
            self.best_state = self.model.trainable_state()

    def _out_of_patience(self) -> bool:
        patience, key = self.config.optim.patience_epochs, self.config.optim.patience_on
        if not patience or not self.history:
            return False
        sign = -1 if key.startswith("loss") else 1
        # A report without the value (no image in `validating`) is never the best.
        values = [sign * report[key] if math.isfinite(report[key]) else -math.inf for report in self.history]
        return len(values) - 1 - values.index(max(values)) >= patience

    def _train_epoch(self, epoch: int, batches: Iterable[Batch | KeptBatch]) -> dict[str, float]:
        """Train one epoch; dropout is seeded by (seed, epoch, rank), so a resumed run draws the same.

        Returns:
            `loss` and `gradient_norm` (of what has a learning rate above 0, before clipping), means over steps, and
            `loss_spread`, largest less smallest loss of a step, if there are several; means over ranks. On a GPU
            `peak_memory_gb`: most memory that tensors took on any rank, in 10^9 bytes.
        """
        torch.manual_seed(hash((self.config.seed, epoch, self.place.rank)))
        self.wrapped.train()
        if self.place.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.place.device)
        steps = [self._train_step(batch) for batch in batches]
        if len(steps) != self.steps_per_epoch:
            raise TrainingError(f"epoch {epoch} got {len(steps)} of {self.steps_per_epoch} batches")
        loss_S, norm_S = torch.stack(steps).cpu().numpy().T.astype(float)  # the only wait for the device in an epoch
        mine = np.array([[loss_S.mean() / self.loss_scale, norm_S.mean(), np.ptp(loss_S) / self.loss_scale]])
        # The same on all ranks, so that all stop if the loss is NaN.
        measured = dict(zip(MEASURED, self.place.gather(mine).mean(axis=0).tolist(), strict=True))
        if not math.isfinite(measured["loss"]):
            raise TrainingError(f"the loss is {measured['loss']} in epoch {epoch}; a smaller learning rate may help")
        if len(steps) == 1:
            del measured["loss_spread"]
        if self.place.is_gpu:
            peak = np.array([torch.cuda.max_memory_allocated(self.place.device)])
            measured["peak_memory_gb"] = float(self.place.gather(peak).max()) / 1e9
        return measured

    def _train_step(self, batch: Batch | KeptBatch) -> torch.Tensor:
        """Loss, and norm of the gradient of what has a learning rate above 0."""
        self.optimizer.zero_grad(set_to_none=True)  # first, so that old gradients take no memory beside activations
        kept = isinstance(batch, KeptBatch)
        with self.place.fast_products():
            loss = compute_gradients(
                self.wrapped,
                self._send(batch),
                kept=kept,
                num_parts=self.config.optim.accumulate or 1,
                over_pairs=self.over_pairs,
            )
        norm = self._gradient_norm()
        if self.config.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return torch.stack([loss.float(), norm])

    def _send(self, batch: Batch | KeptBatch) -> Images:
        if isinstance(batch, KeptBatch):
            return Images(batch.activation_BX, *self.place.send(batch.sides_B6, batch.identity_B))
        return Images(*self.place.send(batch.pixels_BHWC, batch.sides_B6, batch.identity_B))

    def _gradient_norm(self) -> torch.Tensor:
        moved = [parameter for group in self.optimizer.param_groups if group["lr"] > 0 for parameter in group["params"]]
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        if not gradients:
            return torch.zeros((), device=self.place.device)
        return nn.utils.get_total_norm(gradients).float()

    def save(self, folder: Path) -> None:
        """Write what `load` needs into a folder: trained parameters (last, best), optimiser, schedule, reports."""
        save_file(self.model.trainable_state(), folder / "last.safetensors")
        save_file(self.best_state, folder / "best.safetensors")
        state = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        torch.save({**state, "history": self.history}, folder / "trainer.pt")
        write_checksums(folder, CHECKPOINT)

    def load(self, folder: Path) -> None:
        """Continue from a folder that `save` wrote, with the same configuration.

        Raises:
            UserError: If a file of it is missing or damaged; nothing is loaded then.
        """
        verify_checksums(folder, CHECKPOINT)
        self.model.load_trainable_state(load_file(folder / "last.safetensors", device=self.place.device))
        self.best_state = load_file(folder / "best.safetensors")
        state = torch.load(folder / "trainer.pt", map_location=self.place.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]

    def start_from(self, folder: Path) -> None:
        """Take over the best weights of another trial with the same model, from a folder that its `save` wrote.

        Raises:
            UserError: If a file of it is missing or damaged.
        """
        verify_checksums(folder, CHECKPOINT)
        self.best_state = load_file(folder / "best.safetensors")
        self.restore_best()

    def restore_best(self) -> ReidModel:
        """The model with the weights of the best epoch (the initial ones if nothing was trained)."""
        self.model.load_trainable_state(self.best_state)
        return self.model
