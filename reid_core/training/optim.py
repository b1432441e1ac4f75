"""Optimiser, parameter groups and learning-rate schedule.

model parts + configuration → AdamW with one learning rate per part, and a multiplier per step (paper §4.1.2, §4.1.3.3).
"""

import math
from functools import partial

import torch

from reid_core.config.parameters import OptimConfig
from reid_core.model.reid_model import ReidModel

LINEAR_SCALING_FROM = 16  # images: the batch size that `lr_head` is for under linear scaling (paper §4.1.3.3)
# torch.optim.lr_scheduler.OneCycleLR's defaults: where the peak is, and how far below it start and end are
ONECYCLE_PEAK, ONECYCLE_START, ONECYCLE_END = 0.3, 1 / 25, 1 / 25e4


def head_rate(config: OptimConfig) -> float:
    """Peak learning rate of the head; under linear scaling it grows with the batch size (Goyal et al., 2017).

    Example:
        >>> head_rate(OptimConfig(lr_head=1e-5, batch_size=32, lr_head_scaling="linear"))
        2e-05
    """
    scale = config.batch_size / LINEAR_SCALING_FROM if config.lr_head_scaling == "linear" else 1
    return config.lr_head * scale


def make_optimizer(config: OptimConfig, model: ReidModel) -> torch.optim.AdamW:
    """AdamW over the trained parameters: `lr_head`, `lr_norm`, and `lr_stages` for everything else."""
    lr_of = {"head": head_rate(config), "norm": config.lr_norm}
    groups = []
    for part in model.parts():
        trained = [parameter for parameter in part.parameters if parameter.requires_grad]
        groups.append({"params": trained, "lr": lr_of.get(part.name, config.lr_stages), "name": part.name})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: OptimConfig, step: int, steps_per_epoch: int, *, part: str = "head") -> float:
    """Multiplier of a part's learning rate at a step (counted from 0 over the whole run), in [0, 1].

    constant, cosine: linear warm-up over `warmup_epochs`, then constant, or half a cosine down to 0 at the end of the
    run. onecycle: half a cosine up from 1/25 over the first 30 % of the steps, then down to 1/250000 (Smith, 2018).
    During `head_only_epochs` it is 0 for every part but the head.

    Example:
        >>> learning_rate_factor(OptimConfig(epochs=2, schedule="cosine"), step=10, steps_per_epoch=10)
        0.5
        >>> learning_rate_factor(OptimConfig(head_only_epochs=2), step=19, steps_per_epoch=10, part="norm")
        0.0
    """
    if part != "head" and step < config.head_only_epochs * steps_per_epoch:
        return 0.0
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if config.schedule == "onecycle":
        return _onecycle(step, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    return _half_cosine(1.0, 0.0, (step - warmup) / max(1, total - warmup))


def _onecycle(step: int, total: int) -> float:
    peak, last = ONECYCLE_PEAK * total - 1, total - 1
    if step <= peak:
        return _half_cosine(ONECYCLE_START, 1.0, step / peak)
    return _half_cosine(1.0, ONECYCLE_END, (step - peak) / max(1e-9, last - peak))


def _half_cosine(start: float, end: float, share: float) -> float:
    """From `start` to `end` as `share` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def make_schedule(
    config: OptimConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """`learning_rate_factor` as a torch scheduler, stepped once per batch."""

    def factor(part: str, step: int) -> float:
        return learning_rate_factor(config, step, steps_per_epoch, part=part)

    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, [partial(factor, group["name"]) for group in optimizer.param_groups]
    )
