"""Does Ray Data feed a training loop as fast as torch's DataLoader, and how much faster than one that decodes JPEGs?

    python benchmarks/stream.py [--processes 2] [--rounds 5] [--batches 48]

Drawn photographs of 1200 × 900 pixels as JPEG files, batches of 32 at 256 px, augmented online. Three ways to make
them, each in as many processes, take turns; what is measured is the steady state, when the first batches are through.

* stream: `sweeps.trials.stream`, Ray Data's tasks that read the image cache
* loader: torch's `DataLoader` that reads the same cache and makes the very same batches
* decoding: torch's `DataLoader` as tutorials have it: a photograph is decoded, resized and augmented each time
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of several processes would wait for each other
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import pyarrow as pa
import ray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.image_cache import build_cache, decode_image
from reid_core.data.pixel_source import PixelSource
from reid_core.model.heads import NUM_SIDES
from reid_core.training.augment import Augmenter
from reid_core.training.batch_plan import make_plan, make_pool
from reid_core.training.batches import Source, make_source
from reid_core.training.pixels import augmentation_seeds, make_pixels
from sweeps.machines.connect import set_environment
from sweeps.machines.resources import Resources
from sweeps.trials.stream import stream_batches

PHOTOGRAPH_PX, IMAGE_PX, BATCH = (1200, 900), 256, 32
NUM_IMAGES, PER_IDENTITY = 128, 4
SKIPPED = 12  # batches until the steady state
BARS = {"loader": 0.95, "decoding": 1.5}


@dataclass(frozen=True)
class Photographs:
    """Drawn photographs and the batches that are made of them."""

    folder: Path
    paths: list[str]
    plan: pa.Table
    source: Source

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of the plan."""
        return self.plan.to_pylist()


def draw_photographs(folder: Path, num_batches: int) -> Photographs:
    """Write JPEG files of the size that cameras' are scaled to for the web, and their image cache."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(0), [f"{number}.jpg" for number in range(NUM_IMAGES)]
    width, height = PHOTOGRAPH_PX
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(PHOTOGRAPH_PX, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / path, quality=90)
    per_epoch = NUM_IMAGES // BATCH
    given = {"optim.epochs": -(-num_batches // per_epoch), "optim.batch_size": BATCH, "data.image_px": IMAGE_PX}
    config = override(TrialConfig(), given | {"data.images_per_identity": PER_IDENTITY})
    code_N = np.arange(NUM_IMAGES) // PER_IDENTITY
    names = np.array([f"animal {code}" for code in code_N], dtype=object)
    pool = make_pool(config.data, names, np.arange(NUM_IMAGES), NUM_IMAGES)
    cache = build_cache(folder / "cache", folder, paths, IMAGE_PX)
    sides_N6 = np.zeros((NUM_IMAGES, NUM_SIDES), np.float32)
    source = make_source(config, pool, image_cache=cache, variants=None, code_N=code_N, sides_N6=sides_N6)
    return Photographs(folder, paths, make_plan(config, pool), source)


class CachedBatches(Dataset):
    """Batches of the plan from the image cache, for a `DataLoader`: what `local_batches` makes."""

    def __init__(self, photographs: Photographs) -> None:
        self.photographs = photographs

    def __len__(self) -> int:
        return len(self.photographs.plan)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        source, row = self.photographs.source, self.photographs.rows[step]
        return make_pixels(row, source.seed, self._images, self._augmenter).pixels_BHWC, np.asarray(row["rows"])

    @cached_property
    def _images(self) -> PixelSource:
        return PixelSource.open(self.photographs.source.image_cache, None)

    @cached_property
    def _augmenter(self) -> Augmenter:
        assert self.photographs.source.augment is not None
        return Augmenter(self.photographs.source.augment)


class DecodedImages(CachedBatches):
    """Photographs one by one, decoded each time, in the order of the plan."""

    def __len__(self) -> int:
        return len(self.photographs.plan) * BATCH

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        step, position = divmod(number, BATCH)
        entry = self.photographs.rows[step]
        row = entry["rows"][position]
        data = (self.photographs.folder / self.photographs.paths[row]).read_bytes()
        seeds = augmentation_seeds(self.photographs.source.seed, entry["epoch"], entry["position"] + position, 1)
        return self._augmenter([decode_image(data, IMAGE_PX)], seeds).pixels_BHWC[0], np.asarray(row)


def ways(photographs: Photographs, processes: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """How batches are made, by name."""
    resources = Resources(workers=1, data_cpus_per_worker=processes)

    def load(dataset: Dataset, size: int | None) -> Iterator[Any]:
        loader = DataLoader(dataset, size, num_workers=processes, multiprocessing_context="forkserver")
        return (batch for batch in loader)

    return {
        "stream": lambda: stream_batches(photographs.plan, photographs.source, rank=0, resources=resources),
        "loader": lambda: load(CachedBatches(photographs), None),
        "decoding": lambda: load(DecodedImages(photographs), BATCH),
    }


def measure(make: Callable[[], Iterator[Any]], num_skipped: int, num_batches: int) -> tuple[float, float, float]:
    """Images per second, and per second of all processes' CPU time, in the steady state; seconds to the first batch."""
    began_s = time.monotonic()
    with closing(make()) as batches:  # type: ignore[type-var]
        next(batches)
        first_s = time.monotonic() - began_s
        for _ in range(num_skipped - 1):
            next(batches)
        wall_s, cpu_s = time.monotonic(), used_cpu_s()
        for _ in range(num_batches):
            next(batches)
        wall_s, cpu_s = time.monotonic() - wall_s, used_cpu_s() - cpu_s
    return num_batches * BATCH / wall_s, num_batches * BATCH / cpu_s, first_s


def used_cpu_s() -> float:
    """CPU time of this process and all that it started, and that still run."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def start_ray(processes: int) -> None:
    """A local Ray with room for the tasks and nothing else."""
    set_environment()
    root = str(Path(__file__).resolve().parents[1])
    ray.init(
        num_cpus=processes + 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure all three; the status is 0 if the bars are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="that make batches")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--skip", type=int, default=SKIPPED, help="batches until the steady state")
    parser.add_argument("--batches", type=int, default=48, help="that are measured in a turn")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        photographs = draw_photographs(Path(folder), options.skip + options.batches + 8)
        start_ray(options.processes)
        found: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(options.rounds):
            for name, make in ways(photographs, options.processes).items():
                found.setdefault(name, []).append(measure(make, options.skip, options.batches))
                print(name, *(f"{value:.4g}" for value in found[name][-1]), flush=True)
        ray.shutdown()
    return report(found)


def report(found: dict[str, list[tuple[float, float, float]]]) -> int:
    """Print what was measured; 0 if the bars are reached."""
    print(f"{'':<10}{'images/s':>10}{'images/CPU-s':>14}{'first batch, s':>16}")
    for name, turns in found.items():
        rate, per_cpu, first_s = (median(values) for values in zip(*turns, strict=True))
        print(f"{name:<10}{rate:>10.0f}{per_cpu:>14.0f}{first_s:>16.2f}")
    all_ok = True
    for peer, bar in BARS.items():
        # Of each round's neighbours: what else the machine does changes from round to round.
        ratio = median(mine[0] / theirs[0] for mine, theirs in zip(found["stream"], found[peer], strict=True))
        value, theirs = (median(turn[0] for turn in found[name]) for name in ("stream", peer))
        is_ok = ratio >= bar
        all_ok = all_ok and is_ok
        print(
            f"RESULT stream_over_{peer} value={value:.0f} peer={theirs:.0f} ratio={ratio:.3f} bar={bar} "
            f"{'ok' if is_ok else 'short'}"
        )
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main())
