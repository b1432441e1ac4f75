"""Batches: one plan row → the pixels, identities and sides of one training step on one rank.

plan + `Source` → batches, augmented online, or offline as they are in the caches (paper §3.3, §7.1).
The same function serves plain Python (here) and Ray Data (`sweeps/trials/stream.py`), hence the same pixels in both.

Letters: R rows that a plan may name (photographs, then extra variants), N photographs, B batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from reid_core.config.parameters import AugmentConfig, TrialConfig
from reid_core.data.chunks import map_ahead
from reid_core.data.pixel_source import PixelSource, keys_of
from reid_core.errors import UserError
from reid_core.model.embed import complete
from reid_core.model.frozen.activations import Read
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel
from reid_core.training.augment import Augmenter
from reid_core.training.batch_plan import Pool

BATCHES_AHEAD = 2  # of kept activations, read while the model trains


class Batch(NamedTuple):
    """One step's input on one rank."""

    pixels_BHWC: np.ndarray  # uint8 RGB; normalised by the model, on its device
    identity_B: np.ndarray  # int64 codes
    sides_B6: np.ndarray  # float32, what the photographed sides are; zeros if unknown


@dataclass(frozen=True)
class Source:
    """Where the batches of a trial come from."""

    seed: int
    image_cache: str  # paths; every node must see them
    variants: str | None
    augment: AugmentConfig | None  # online; None: the pixels are taken as they are
    code_R: np.ndarray
    sides_R6: np.ndarray

    def batch(self, pixels_BHWC: np.ndarray, rows_B: np.ndarray) -> Batch:
        """Put what is known of the rows beside their pixels."""
        return Batch(pixels_BHWC, self.code_R[rows_B], self.sides_R6[rows_B])


def make_source(
    config: TrialConfig,
    pool: Pool,
    *,
    image_cache: str | Path,
    variants: str | Path | None,
    code_N: np.ndarray,
    sides_N6: np.ndarray,
) -> Source:
    """The source of a trial's batches; an extra variant shows the identity and the sides of its photograph.

    Args:
        config: Of the trial; `seed`, `augment` and `data.variants` are used.
        pool: From `batch_plan.make_pool`, the one that the plan was made with.
        image_cache: Path of the photographs.
        variants: From `variants.build_variants` for this pool.
        code_N: Integer identity of each row of the image cache.
        sides_N6: Sides that each row of the image cache shows.
    """
    rows_R = np.concatenate([np.arange(len(code_N)), pool.source_E])
    return Source(
        seed=config.seed,
        image_cache=str(image_cache),
        variants=str(variants) if variants else None,
        augment=None if config.data.variants else config.augment,
        code_R=code_N[rows_R],
        sides_R6=sides_N6[rows_R],
    )


def augmentation_seeds(seed: int, epoch: int, position: int, size: int) -> np.ndarray:
    """One seed per image, a function of (run seed, epoch, position in the epoch) only; shape (size,), uint32."""
    return np.array(
        [np.random.SeedSequence([seed, epoch, position + i]).generate_state(1)[0] for i in range(size)], dtype=np.uint32
    )


def make_pixels(plan_row: dict[str, Any], seed: int, images: PixelSource, augmenter: Augmenter | None) -> np.ndarray:
    """Pixels of one plan row, augmented if there is an augmenter; (B, H, W, 3) uint8."""
    rows = np.asarray(plan_row["rows"])
    if augmenter is None:
        return images.pixels(rows)
    seeds = augmentation_seeds(seed, int(plan_row["epoch"]), int(plan_row["position"]), len(rows))
    return augmenter(images.pixels(rows), seeds)


def local_batches(plan: pa.Table, source: Source, *, rank: int = 0) -> Iterator[Batch]:
    """Batches of one rank, in the order of the plan (`batch_plan.make_plan`), made in this process."""
    images = PixelSource.open(source.image_cache, source.variants)
    augmenter = Augmenter(source.augment) if source.augment else None
    for row in plan.to_pylist():
        if row["rank"] == rank:
            yield source.batch(make_pixels(row, source.seed, images, augmenter), np.asarray(row["rows"]))


class KeptBatch(NamedTuple):
    """One step's input on one rank, from the boundary on."""

    activation_BX: torch.Tensor  # on the model's device
    identity_B: np.ndarray  # int64 codes
    sides_B6: np.ndarray  # float32


def activation_batches(plan: pa.Table, source: Source, model: ReidModel, place: Place) -> Iterator[KeptBatch]:
    """Like `batches.local_batches` for offline variants, from the boundary on; read ahead in a thread.

    Args:
        plan: From `batch_plan.make_plan`, the epochs that are still to do.
        source: From `batches.make_source`, without online augmentation.
        model: On the place's device.
        place: Of the rank whose batches are asked for. A row of the plan whose activation it does not hold, or holds
            damaged, is computed from its pixels.

    Raises:
        UserError: If the pixels differ from epoch to epoch.
    """
    kept = place.activations
    assert kept is not None
    if source.augment is not None:
        raise UserError("training from kept activations needs fixed pixels: set data.variants (1: no augmentation)")
    images = PixelSource.open(source.image_cache, source.variants)
    mine = (np.asarray(row["rows"]) for row in plan.to_pylist() if row["rank"] == place.rank)

    def read(rows_B: np.ndarray) -> tuple[np.ndarray, Read]:
        return rows_B, kept.read(keys_of(images, rows_B.tolist()))

    for rows_B, found in map_ahead(read, mine, num_threads=1, num_ahead=BATCHES_AHEAD):
        # Here and not in the thread, which would take the device from the training step.
        with torch.no_grad(), place.autocast():
            activation_BX = complete(model, found, rows_B, images.pixels, place)
        yield KeptBatch(activation_BX, source.code_R[rows_B], source.sides_R6[rows_B])
