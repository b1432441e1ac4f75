"""The pixels of a batch: a function of its row of the plan, the images and the run's seed, wherever it is computed.

plan row → pixels, augmented online from (seed, epoch, position), or as they are in the caches (paper §3.3). No model:
processes that only make batches start sooner without one.
"""

from typing import Any

import numpy as np

from reid_core.data.pixel_source import PixelSource
from reid_core.training.augment import Augmented, Augmenter


def augmentation_seeds(seed: int, epoch: int, position: int, size: int) -> np.ndarray:
    """One seed per image, a function of (run seed, epoch, position in the epoch) only; shape (size,), uint32."""
    return np.array(
        [np.random.SeedSequence([seed, epoch, position + i]).generate_state(1)[0] for i in range(size)], dtype=np.uint32
    )


def make_pixels(plan_row: dict[str, Any], seed: int, images: PixelSource, augmenter: Augmenter | None) -> Augmented:
    """Pixels of one plan row, augmented if there is an augmenter: the same in any thread, task and attempt."""
    rows = np.asarray(plan_row["rows"])
    if augmenter is None:
        return Augmented(images.pixels(rows), images.errors(rows))
    seeds = augmentation_seeds(seed, int(plan_row["epoch"]), int(plan_row["position"]), len(rows))
    return augmenter(images.views(rows), seeds)
