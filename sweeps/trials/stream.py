"""Ray Data: the plan in, batches out; and chunks of preparatory work spread over the cluster."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources

from reid_core.training.augment import Augmented
from reid_core.training.batches import Batch, Source
from sweeps.machines.resources import Resources
from sweeps.machines.waiting import Watch, watched
from sweeps.trials.batch_task import make_batch

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


def stream_batches(plan: pa.Table, source: Source, *, rank: int, resources: Resources) -> Iterator[Batch]:
    """Batches of one rank, in the order of the plan, made by Ray Data tasks.

    One execution serves all epochs: a new one per epoch would pay its start-up each time.

    Args:
        plan: From `batch_plan.make_plan`, the epochs that are still to do.
        source: From `batches.make_source`; every node must see its files.
        rank: Whose batches.
        resources: Of the trial: the logical CPUs that this stream may use at a time, and how long it may get none.

    Raises:
        WaitedTooLongError: If no batch comes for that long.
    """
    mine = plan.filter(pa.compute.equal(plan["rank"], rank))
    if not len(mine):
        return
    context = quiet_context()
    # Without a cap the stream plans with CPUs that other trials hold, and waits for them.
    context.execution_options.resource_limits = ExecutionResources(cpu=resources.data_cpus_per_worker)
    dataset = make_dataset(mine.to_pylist(), num_blocks=math.ceil(len(mine) / ROWS_PER_TASK)).map_batches(
        make_batch,  # type: ignore[arg-type]
        batch_size=1,
        # Identities and sides stay here: tasks need none of them.
        fn_kwargs={name: getattr(source, name) for name in ("seed", "image_cache", "variants", "augment")},
        num_cpus=resources.cpus_per_data_task,
    )
    batches = iter(dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=2))
    asked = f"the next batch of rank {rank}, from a task of {resources.cpus_per_data_task:g} CPU"
    for batch in watched(batches, Watch(what=lambda: asked, patience_s=resources.patience_s, always=True)):
        # Zero-copy arrays are read-only, which torch refuses to wrap silently.
        rows_B, errors = batch["rows"][0], str(batch["errors"][0])
        error_B = json.loads(errors) if errors else [None] * len(rows_B)
        yield source.batch(Augmented(np.array(batch["pixels"][0]), error_B), rows_B)


def make_dataset(rows: list[dict[str, Any]], *, num_blocks: int) -> Dataset:
    """Rows as a data set of so many blocks, which needs no task to be made.

    `ray.data.from_arrow` and `range` start tasks of their own, each of 1 CPU, whatever the stream is allowed.
    """
    return ray.data.from_items(rows, override_num_blocks=max(1, num_blocks))


class _Mapper:
    """A function of chunks in an actor, which keeps its network from chunk to chunk."""

    def __init__(self, function: Callable[[Any], pa.Table], chunks: Sequence[Any]) -> None:
        self.function, self.chunks = function, chunks

    def __call__(self, rows: dict[str, np.ndarray]) -> pa.Table:
        return self.function(self.chunks[int(rows["id"][0])])


def ray_map(
    function: Callable[[Any], pa.Table],
    chunks: Sequence[Any],
    *,
    gpus_per_worker: float = 0.0,
    patience_s: float | None = None,
) -> Iterator[pa.Table]:
    """Like `chunks.local_map`, on the cluster: apply a function to chunks, results in the order of the chunks.

    Args:
        function: Applied in tasks; with GPUs in actors, as many as find one.
        chunks: What it is applied to.
        gpus_per_worker: What each actor gets; 0: no GPU is needed.
        patience_s: How long CPUs and GPUs may not be to be had; None: for ever.

    Raises:
        WaitedTooLongError: If they are not to be had for that long.
    """
    quiet_context()
    dataset = make_dataset([{"id": number} for number in range(len(chunks))], num_blocks=len(chunks))
    if gpus_per_worker:
        most = max(1, int(ray.cluster_resources().get("GPU", 0) // gpus_per_worker))
        # Not tasks: Ray ends the process of a task that had a GPU, and the next one would load the network again.
        dataset = dataset.map_batches(
            _Mapper,
            fn_constructor_args=(function, chunks),
            batch_size=1,
            num_gpus=gpus_per_worker,
            compute=ActorPoolStrategy(min_size=1, max_size=most),
        )
    else:
        dataset = dataset.map_batches(_Mapper(function, chunks).__call__, batch_size=1, num_cpus=1)
    tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    asked = f"{len(chunks)} tasks of {f'{gpus_per_worker:g} GPU' if gpus_per_worker else '1 CPU'} each"
    yield from watched(tables, Watch(what=lambda: f"the next of {asked}", patience_s=patience_s))
