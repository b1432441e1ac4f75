"""How much memory a training step takes on a GPU, found out without one, and what makes it fit.

configuration → one step on torch's meta device, in which nothing is computed → bytes → the same configuration, its
batch in so many parts that it fits.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from reid_core.config.parameters import DataConfig, OptimConfig, TrialConfig
from reid_core.config.values import override
from reid_core.errors import UserError
from reid_core.model.heads import NUM_SIDES
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, outline_model
from reid_core.training.step.meta_device import CudaRules, LiveBytes, backward

MARGIN = 1.1  # memory over the tensors in it: gaps between them, workspaces of convolutions and products
RESERVED = 1_000_000_000  # bytes that CUDA, its libraries and NCCL take for themselves
MOMENTS = 2  # that AdamW keeps of each parameter
logger = logging.getLogger(__name__)


class TooLargeError(UserError):
    """No way of going through a step fits into the GPU."""

    def __init__(self, message: str, *, over_gb: float) -> None:
        super().__init__(message)
        self.over_gb = over_gb  # by how much it is too large

    def __reduce__(self) -> tuple:
        return _too_large, (str(self), self.over_gb)


def _too_large(message: str, over_gb: float) -> TooLargeError:
    return TooLargeError(message, over_gb=over_gb)


@dataclass(frozen=True)
class StepMemory:
    """Bytes on a worker's device while it trains, by what they hold."""

    weights: int  # frozen and trained, and buffers
    moments: int  # AdamW's
    exchange: int  # in which several workers add up their gradients
    step: int  # at the peak: activations, gradients, pixels, what is between two operations

    @property
    def tensors(self) -> int:
        """What `torch.cuda.max_memory_allocated` would say."""
        return self.weights + self.moments + self.exchange + self.step

    @property
    def needed(self) -> int:
        """Memory that a GPU must have."""
        return int(MARGIN * self.tensors) + RESERVED

    def describe(self) -> str:
        """One line for people."""
        parts = (("weights", self.weights), ("AdamW", self.moments), ("exchange", self.exchange), ("step", self.step))
        return ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts if size)


def fit_to_memory(config: TrialConfig, place: Place, *, num_identities: int) -> TrialConfig:
    """A trial's configuration with `optim.accumulate` and `model.checkpointing` such that its step fits into memory.

    Where they are left open, the batch is gone through in 1, 2, 4 … parts, without and then with checkpointing, and
    the first way that fits is taken; what comes out is the same (`gradients.compute_gradients`).

    Args:
        config: Of the trial.
        place: Of this rank; all go by the smallest memory among them. Its `halvings` come on top.
        num_identities: K, of the classifier.

    Raises:
        TooLargeError: If nothing fits.
    """
    if place.memory_bytes is not None and config.optim.epochs:
        # On all ranks alike, whatever GPU each has.
        there = int(place.gather(np.array([place.memory_bytes])).min())
        config = _first_that_fits(config, there, place, num_identities=num_identities)
    if place.halvings:
        config = override(config, {"optim.accumulate": (config.optim.accumulate or 1) * 2**place.halvings})
    if place.rank == 0 and (place.memory_bytes is not None or place.halvings):
        parts, again = config.optim.accumulate or 1, config.model.checkpointing == "always"
        logger.info("a step is gone through in parts: %d, with gradient checkpointing: %s", parts, again)
    return config


def describe_step(config: TrialConfig, place: Place, *, num_identities: int) -> dict[str, Any]:
    """How a fitted configuration's step is run, for the record of its trial; empty where nothing was fitted."""
    if not config.optim.epochs or (place.memory_bytes is None and not place.halvings):
        return {}
    memory = predict(config, num_identities=num_identities, world_size=place.world_size, device=place.device)
    return {
        "accumulate": config.optim.accumulate or 1,
        "checkpointing": config.model.checkpointing == "always",
        "predicted_memory_gb": memory.tensors / 1e9,
    }


def _first_that_fits(config: TrialConfig, there: int, place: Place, *, num_identities: int) -> TrialConfig:
    least: StepMemory | None = None
    for candidate in _ways(config, config.optim.batch_size // place.world_size):
        memory = predict(candidate, num_identities=num_identities, world_size=place.world_size, device=place.device)
        if memory.needed <= there:
            return candidate
        least = memory if least is None or memory.needed < least.needed else least
    assert least is not None
    message = _explain(config, least, there)
    if config.optim.accumulate is not None or config.model.checkpointing == "never":
        free = override(config, {"optim.accumulate": None, "model.checkpointing": "auto"})
        try:
            fits = _first_that_fits(free, there, place, num_identities=num_identities)
        except TooLargeError:
            pass
        else:
            message += (
                f"; it fits with optim.accumulate={fits.optim.accumulate or 1} and "
                f"model.checkpointing={fits.model.checkpointing}"
            )
    raise TooLargeError(message, over_gb=(least.needed - there) / 1e9)


def _ways(config: TrialConfig, num_images: int) -> Iterator[TrialConfig]:
    """The configuration with every way to go through a rank's images, the fastest first."""
    for checkpointing in {"auto": ("never", "always")}.get(config.model.checkpointing, (config.model.checkpointing,)):
        if config.optim.accumulate is not None:
            yield override(config, {"model.checkpointing": checkpointing})
            continue
        num_parts = 1
        while True:
            yield override(config, {"model.checkpointing": checkpointing, "optim.accumulate": num_parts})
            if num_parts >= num_images:
                break
            num_parts = min(2 * num_parts, num_images)


def _explain(config: TrialConfig, least: StepMemory, there: int) -> str:
    return (
        f"optim.batch_size={config.optim.batch_size} with model.unfrozen_stages={config.model.unfrozen_stages} at "
        f"data.image_px={config.data.image_px} needs about {least.needed / 1e9:.1f} GB of a GPU's memory "
        f"({least.describe()}), and a worker gets {there / 1e9:.1f} GB; more workers, a smaller batch, fewer unfrozen "
        "stages or smaller images need less"
    )


def predict(config: TrialConfig, *, num_identities: int, world_size: int = 1, device: str = "cuda") -> StepMemory:
    """What a step takes at its peak.

    Args:
        config: Of the trial; where `optim.accumulate` and `model.checkpointing` are left open, neither is used.
        num_identities: K, of the classifier.
        world_size: Number of workers that share the batch.
        device: "cuda" or "cpu": which precision `auto` means, and how attention is computed.
    """
    # Only what matters, so that trials that differ in nothing else share one prediction.
    kept = config.model.keep_activations and config.data.variants is not None
    plain = TrialConfig(
        data=replace(DataConfig(), image_px=config.data.image_px, variants=1 if kept else None),
        model=replace(config.model, checkpointing="always" if config.model.checkpointing == "always" else "never"),
        loss=config.loss,
        optim=replace(
            OptimConfig(),
            batch_size=config.optim.batch_size,
            precision=config.optim.precision,
            accumulate=config.optim.accumulate or 1,
        ),
    )
    return _predict(plain, num_identities, world_size, torch.device(device).type)


@lru_cache(maxsize=1024)
def _predict(config: TrialConfig, num_identities: int, world_size: int, device: str) -> StepMemory:
    model = outline_model(config, num_identities=num_identities)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    trained = sum(each.numel() * each.element_size() for each in model.parameters() if each.requires_grad)
    model.train()
    if config.model.checkpointing == "always":
        model.checkpoint_stages()
    peak = _measure_step(model, config, -(-config.optim.batch_size // world_size), device)
    return StepMemory(weights, MOMENTS * trained, trained if world_size > 1 else 0, peak - weights)


def _measure_step(model: ReidModel, config: TrialConfig, num_images: int, device: str) -> int:
    """Bytes at the peak of a step without the optimiser's part; of images gone through in parts, of the second one."""
    num_parts = config.optim.accumulate or 1
    part, px = -(-num_images // num_parts), config.data.image_px
    rules = CudaRules(device, bfloat16=Place(device=device, precision=config.optim.precision).uses_bfloat16)
    # Beside the pixels of this step, those of the next one are on the device.
    pixels_NHWC = torch.empty(2 * num_images, px, px, 3, dtype=torch.uint8, device="meta")
    sides_B6 = torch.zeros(part, NUM_SIDES, device="meta")
    activation_BX = None
    if config.data.variants is not None:
        with rules:
            activation_BX = model.frozen_features(model.normalise(pixels_NHWC[:part]))
    inputs = pixels_NHWC if activation_BX is None else activation_BX
    with LiveBytes((*model.parameters(), *model.buffers(), inputs)) as live, rules:
        for _ in range(min(num_parts, 2)):
            if activation_BX is None:
                feature_BD = model.features(model.normalise(pixels_NHWC[:part]), sides_B6)
            else:
                feature_BD = model.features_from(activation_BX, sides_B6)
            backward(_stand_in(model, feature_BD))
            del feature_BD
    return live.peak


def _stand_in(model: ReidModel, feature_BD: torch.Tensor) -> torch.Tensor:
    """A scalar in place of the loss: mining and margins look at values, and take little beside the network."""
    if model.classifier is None:
        return feature_BD.square().sum()
    logit_BK = model.classifier(feature_BD)
    return torch.nn.functional.cross_entropy(logit_BK, torch.zeros(len(logit_BK), dtype=torch.int64, device="meta"))
