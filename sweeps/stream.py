"""Ray Data: the plan in, augmented batches out; and chunks of preparatory work spread over the cluster."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import DataContext, ExecutionResources

from reid_core.augment import Augmenter
from reid_core.batches import Batch, make_pixels
from reid_core.config import AugmentConfig
from reid_core.images import ImageCache

ROWS_PER_TASK = 4  # batches that one task makes: few enough to start soon, enough to pay for the task


def quiet_context() -> DataContext:
    """Ray Data's settings for streams inside trials: in order, without the bars that flood a log."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    context.print_on_execution_start = False
    return context


@cache
def _open_cache(path: str) -> ImageCache:
    return ImageCache(Path(path))


@cache
def _open_augmenter(config: AugmentConfig) -> Augmenter:
    return Augmenter(config)


def make_batch(columns: dict[str, np.ndarray], *, seed: int, image_cache: str, config: AugmentConfig) -> dict:
    """One plan row → one row with the augmented pixels; runs in a Ray Data task."""
    torch.set_num_threads(1)
    row = {name: values[0] for name, values in columns.items()}
    pixels_BHWC = make_pixels(row, seed, _open_cache(image_cache), _open_augmenter(config))
    return {"pixels": pixels_BHWC[None], "rows": np.asarray(row["rows"])[None], "step": columns["step"]}


def stream_batches(
    plan: pa.Table,
    *,
    seed: int,
    config: AugmentConfig,
    image_cache: str,
    code_N: np.ndarray,
    rank: int,
    data_cpus: float,
) -> Iterator[Batch]:
    """Batches of one rank, in the order of the plan, made by Ray Data tasks.

    One execution serves all epochs: a new one per epoch would pay its start-up each time.

    Args:
        plan: From `plan.make_plan`, the epochs that are still to do.
        seed: Of the run.
        config: Of the augmentation.
        image_cache: Path of the image cache; every node must see it.
        code_N: Integer identity of each row of the cache.
        rank: Whose batches.
        data_cpus: Logical CPUs that this stream may use at a time.
    """
    mine = plan.filter(pa.compute.equal(plan["rank"], rank))
    if not len(mine):
        return
    context = quiet_context()
    # Without a cap the stream plans with CPUs that other trials hold, and waits for them.
    context.execution_options.resource_limits = ExecutionResources(cpu=data_cpus)
    dataset = ray.data.from_arrow(_in_blocks(mine)).map_batches(
        make_batch,  # type: ignore[arg-type]
        batch_size=1,
        fn_kwargs={"seed": seed, "image_cache": image_cache, "config": config},
        num_cpus=min(1.0, data_cpus),
    )
    for batch in dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=2):
        # Zero-copy arrays are read-only, which torch refuses to wrap silently.
        yield Batch(np.array(batch["pixels"][0]), code_N[batch["rows"][0]])


def _in_blocks(plan: pa.Table) -> list[pa.Table]:
    return [plan.slice(start, ROWS_PER_TASK) for start in range(0, len(plan), ROWS_PER_TASK)]


def ray_map(function: Callable[[Any], pa.Table], chunks: Sequence[Any]) -> Iterator[pa.Table]:
    """Like `images.local_map`, on the cluster: apply a function to chunks, results in the order of the chunks."""
    quiet_context()
    dataset = ray.data.range(len(chunks), override_num_blocks=max(1, len(chunks))).map_batches(
        lambda rows: function(chunks[int(rows["id"][0])]), batch_size=1
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
