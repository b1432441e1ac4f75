"""Batches: one plan row → the pixels, identities and sides of one training step on one rank.

plan + `Source` → batches, augmented online, or offline as they are in the caches (paper §3.3, §7.1).
`pixels.make_pixels` serves plain Python (here) and Ray Data (`sweeps/trials/stream.py`): the same pixels in both.

Letters: R rows that a plan may name (photographs, then extra variants), N photographs, B batch.
"""

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from reid_core.config.parameters import AugmentConfig, TrialConfig
from reid_core.data.chunks import count_cpus, map_ahead
from reid_core.data.pixel_source import PixelSource, keys_of
from reid_core.errors import UserError
from reid_core.model.embed import complete
from reid_core.model.frozen.activations import Read
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel
from reid_core.training.augment import Augmented, Augmenter
from reid_core.training.batch_plan import Pool
from reid_core.training.pixels import make_pixels

BATCHES_AHEAD = 2  # read or made while the model trains, beyond those that threads are at work on
MOST_THREADS = 16  # that make batches: more would wait for Python's lock, which a tenth of the work needs


class Batch(NamedTuple):
    """One step's input on one rank."""

    pixels_BHWC: np.ndarray  # uint8 RGB; normalised by the model, on its device
    identity_B: np.ndarray  # int64 codes
    sides_B6: np.ndarray  # float32, what the photographed sides are; zeros if unknown
    failures: tuple[str, ...] = ()  # "name: reason" of each image that could not be augmented, and is as it was


@dataclass(frozen=True)
class Source:
    """Where the batches of a trial come from."""

    seed: int
    image_cache: str  # paths; every node must see them
    variants: str | None
    augment: AugmentConfig | None  # online; None: the pixels are taken as they are
    code_R: np.ndarray
    sides_R6: np.ndarray
    name_R: np.ndarray  # of the photograph, for messages

    def batch(self, augmented: Augmented, rows_B: np.ndarray) -> Batch:
        """Put what is known of the rows beside their pixels."""
        failures = self.failures(augmented.error_B, rows_B)
        return Batch(augmented.pixels_BHWC, self.code_R[rows_B], self.sides_R6[rows_B], failures)

    def failures(self, error_B: Sequence[str | None], rows_B: np.ndarray) -> tuple[str, ...]:
        """Which photographs could not be augmented, and why; as they stand in `Batch`."""
        pairs = zip(self.name_R[rows_B], error_B, strict=True)
        return tuple(f"{name}: {error}" for name, error in pairs if error is not None)


def make_source(
    config: TrialConfig,
    pool: Pool,
    *,
    image_cache: str | Path,
    variants: str | Path | None,
    code_N: np.ndarray,
    sides_N6: np.ndarray,
    name_N: Sequence[str] | None = None,
) -> Source:
    """The source of a trial's batches; an extra variant shows the identity and the sides of its photograph.

    Args:
        config: Of the trial; `seed`, `augment` and `data.variants` are used.
        pool: From `batch_plan.make_pool`, the one that the plan was made with.
        image_cache: Path of the photographs.
        variants: From `variants.build_variants` for this pool.
        code_N: Integer identity of each row of the image cache.
        sides_N6: Sides that each row of the image cache shows.
        name_N: Name of each photograph, for messages; None: its row.
    """
    names_N = np.array([f"row {row}" for row in range(len(code_N))] if name_N is None else name_N, dtype=object)
    rows_R = np.concatenate([np.arange(len(code_N)), pool.source_E])
    return Source(
        seed=config.seed,
        image_cache=str(image_cache),
        variants=str(variants) if variants else None,
        augment=None if config.data.variants else config.augment,
        code_R=code_N[rows_R],
        sides_R6=sides_N6[rows_R],
        name_R=names_N[rows_R],
    )


def local_batches(plan: pa.Table, source: Source, *, rank: int = 0, num_threads: int | None = None) -> Generator[Batch]:
    """Batches of one rank, in the order of the plan (`batch_plan.make_plan`), made in threads of this process.

    Args:
        plan: The epochs that are still to do.
        source: From `make_source`.
        rank: Whose batches.
        num_threads: That make batches while the model trains; None: one for each CPU. The batches are the same.
    """
    images, own = PixelSource.open(source.image_cache, source.variants), threading.local()

    def make(row: dict[str, Any]) -> Batch:
        if source.augment is not None and not hasattr(own, "augmenter"):
            own.augmenter = Augmenter(source.augment)
        pixels = make_pixels(row, source.seed, images, getattr(own, "augmenter", None))
        return source.batch(pixels, np.asarray(row["rows"]))

    mine = plan.filter(pa.compute.equal(plan["rank"], rank)).to_pylist()
    threads = min(count_cpus(), MOST_THREADS) if num_threads is None else num_threads
    yield from map_ahead(make, mine, num_threads=threads, num_ahead=threads + BATCHES_AHEAD)


class KeptBatch(NamedTuple):
    """One step's input on one rank, from the boundary on."""

    activation_BX: torch.Tensor  # on the model's device
    identity_B: np.ndarray  # int64 codes
    sides_B6: np.ndarray  # float32
    failures: tuple[str, ...] = ()  # as of `Batch`


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
        failures = source.failures(images.errors(rows_B), rows_B)
        yield KeptBatch(activation_BX, source.code_R[rows_B], source.sides_R6[rows_B], failures)
