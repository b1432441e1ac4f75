"""Batches: one plan row → the augmented pixels and identities of one training step on one rank.

The same function serves plain Python (here) and Ray Data (`sweeps/stream.py`), hence the same pixels in both.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from reid_core.augment import Augmenter
from reid_core.config import AugmentConfig
from reid_core.images import ImageCache


class Batch(NamedTuple):
    """One step's input on one rank."""

    pixels_BHWC: np.ndarray  # uint8 RGB; normalised by the model, on its device
    identity_B: np.ndarray  # int64 codes


def augmentation_seeds(seed: int, epoch: int, position: int, size: int) -> np.ndarray:
    """One seed per image, a function of (run seed, epoch, position in the epoch) only; shape (size,), uint32."""
    return np.array(
        [np.random.SeedSequence([seed, epoch, position + i]).generate_state(1)[0] for i in range(size)], dtype=np.uint32
    )


def make_pixels(plan_row: dict[str, Any], seed: int, cache: ImageCache, augmenter: Augmenter) -> np.ndarray:
    """Augmented pixels of one plan row; (B, H, W, 3) uint8."""
    rows = np.asarray(plan_row["rows"])
    seeds = augmentation_seeds(seed, int(plan_row["epoch"]), int(plan_row["position"]), len(rows))
    return augmenter(cache.pixels(rows), seeds)


def local_batches(
    plan: pa.Table, *, seed: int, config: AugmentConfig, cache: ImageCache, code_N: np.ndarray, rank: int = 0
) -> Iterator[Batch]:
    """Batches of one rank, in the order of the plan, made in this process.

    Args:
        plan: From `plan.make_plan`.
        seed: Of the run.
        config: Of the augmentation.
        cache: Pixels by row.
        code_N: Integer identity of each row of the cache.
        rank: Whose batches.
    """
    augmenter = Augmenter(config)
    for row in plan.to_pylist():
        if row["rank"] == rank:
            yield Batch(make_pixels(row, seed, cache, augmenter), code_N[np.asarray(row["rows"])])
