"""Photographs for `gpu.py`: an image cache of random pixels, and streams of batches from it."""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.chunks import map_ahead
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.pixel_source import PixelSource
from reid_core.model.heads import NUM_SIDES
from reid_core.training.augment import Augmenter
from reid_core.training.batch_plan import count_images, count_steps, make_plan, make_pool
from reid_core.training.batches import Batch, Source, local_batches, make_source
from reid_core.training.pixels import make_pixels

PER_IDENTITY = 4  # images of each animal


class Photographs:
    """Photographs of random pixels in an image cache; four of each animal."""

    def __init__(self, folder: Path, num_images: int, image_px: int) -> None:
        names, rng = [f"{row}.png" for row in range(num_images)], np.random.default_rng(0)
        for name in names:
            pixels_HWC = rng.integers(0, 256, (image_px, image_px, 3), dtype=np.uint8)
            Image.fromarray(pixels_HWC).save(folder / name, compress_level=0)
        path = build_cache(folder, folder, names, image_px)
        self.cache = ImageCache(path)
        self.pixels = PixelSource(self.cache)

    def plan_and_source(self, config: TrialConfig, num_steps: int) -> tuple[pa.Table, Source]:
        """Batches for at least so many steps; `data.variants` is None (augmented online) or 1 (as they are)."""
        num_images = len(self.cache)
        code_N = np.arange(num_images) // PER_IDENTITY
        names = np.array([f"animal {code}" for code in code_N], dtype=object)
        pool = make_pool(config.data, names, np.arange(num_images), num_images)
        an_epoch = count_steps(count_images(pool, config.data.undersample_to), config.optim.batch_size)
        plan = make_plan(override(config, {"optim.epochs": math.ceil(num_steps / an_epoch)}), pool)
        sides_N6 = np.zeros((num_images, NUM_SIDES), np.float32)
        source = make_source(config, pool, image_cache=self.cache.path, variants=None, code_N=code_N, sides_N6=sides_N6)
        return plan, source


def start_processes() -> ProcessPoolExecutor:
    """A process for each core, forked now: before the GPU is used, whose state a fork would copy."""
    pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork"))
    pool.submit(int).result()
    return pool


def streams_of(
    plan: pa.Table, source: Source, processes: ProcessPoolExecutor
) -> dict[str, Callable[[], Iterator[Batch]]]:
    """Ways to make the same batches, by name."""
    cores = os.cpu_count() or 1

    def elsewhere(row: dict) -> Batch:
        return processes.submit(make_batch, row, source).result()

    def ahead(make: Callable[[dict], Batch]) -> Iterator[Batch]:
        return map_ahead(make, plan.to_pylist(), num_threads=cores, num_ahead=2 * cores)

    return {
        "one thread": partial(local_batches, plan, source, num_threads=1),
        "plain Python's stream": partial(local_batches, plan, source),
        f"{cores} threads": partial(ahead, partial(make_batch, source=source)),
        f"{cores} processes": partial(ahead, elsewhere),
    }


_open = cache(PixelSource.open)  # once in a process


def make_batch(row: dict, source: Source) -> Batch:
    """A batch of the plan, as `local_batches` makes it, in any thread or process."""
    augmenter = Augmenter(source.augment) if source.augment else None
    pixels_BHWC = make_pixels(row, source.seed, _open(source.image_cache, source.variants), augmenter)
    return source.batch(pixels_BHWC, np.asarray(row["rows"]))
