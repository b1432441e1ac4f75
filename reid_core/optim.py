"""Optimiser, parameter groups and learning-rate schedule.

model parts + configuration → AdamW with one learning rate per part, and a multiplier per step (paper §4.1.2, §4.1.3.3).
"""

import math

import torch

from reid_core.config import OptimConfig
from reid_core.model import ReidModel


def make_optimizer(config: OptimConfig, model: ReidModel) -> torch.optim.AdamW:
    """AdamW over the trained parameters: `lr_head`, `lr_norm`, and `lr_stages` for everything else."""
    lr_of = {"head": config.lr_head, "norm": config.lr_norm}
    groups = []
    for part in model.parts():
        trained = [parameter for parameter in part.parameters if parameter.requires_grad]
        groups.append({"params": trained, "lr": lr_of.get(part.name, config.lr_stages), "name": part.name})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Multiplier of every learning rate at a step (counted from 0 over the whole run), in (0, 1].

    Linear warm-up over `warmup_epochs`, then constant, or half a cosine down to 0 at the end of the run.

    Example:
        >>> learning_rate_factor(OptimConfig(epochs=2, schedule="cosine"), step=10, steps_per_epoch=10)
        0.5
    """
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_schedule(
    config: OptimConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """`learning_rate_factor` as a torch scheduler, stepped once per batch."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(config, step, steps_per_epoch)
    )
