"""What a sweep needs of disk and memory, as far as it is known before.

`Sweep`, sizes of data and model, machines → lines for people, or an error where it is certainly too much.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid_core.config.parameters import TrialConfig
from reid_core.data.splits.parts import Parts
from reid_core.errors import UserError
from reid_core.matching.feature_files import DESCRIPTOR_LENGTH
from reid_core.model.reid_model import ReidModel
from reid_core.training.trainer import KEPT_CHECKPOINTS
from sweeps.machines.connect import Machines
from sweeps.machines.resources import Node
from sweeps.results.result_folder import CACHE
from sweeps.stages.checks.data import pool_of_parts
from sweeps.stages.definition import Sweep
from sweeps.trials.stream import ROWS_PER_TASK

PROCESS_BYTES = 400e6  # of a process that has imported torch, timm and Ray
FLOAT_BYTES = 4
CHECKPOINT_STATES = 4  # last and best weights, two moments of AdamW
TRAINED_STATES = 3  # gradient, two moments of AdamW


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk by what they hold."""

    caches: float  # photographs at each size, and offline variants of the base
    features: float  # local features
    checkpoint: float  # one, of the base
    num_checkpoints: int  # if no trial is pruned before its second epoch

    @property
    def least(self) -> float:
        """What the first trial cannot do without."""
        return self.caches + self.checkpoint

    @property
    def all(self) -> float:
        """What the whole search takes, if no trial is pruned in its first epoch."""
        return self.caches + self.features + self.num_checkpoints * self.checkpoint

    def describe(self) -> str:
        """One line for people."""
        parts = (("photographs", self.caches), ("local features", self.features), ("a checkpoint", self.checkpoint))
        shown = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size)
        return (
            f"{format_bytes(self.all)} on disk if no trial is pruned early ({shown}, {self.num_checkpoints} of these)"
        )


def check_room(sweep: Sweep, parts: Parts, model: ReidModel, out: Path, machines: Machines) -> list[str]:
    """Compare what is needed with what there is; lines that say so.

    Args:
        sweep: Its definition.
        parts: Of the data.
        model: Of the base, without weights.
        out: Result folder; what it holds already is not needed again.
        machines: What the trials run on.

    Raises:
        UserError: If disk, memory or object store are certainly too small.
    """
    lines = check_disk(measure_disk(sweep.base, parts, model, sweep.num_trials), out)
    lines += check_memory(model, machines)
    return lines + check_object_store(sweep.base, batch_sizes_of(sweep), machines)


def batch_sizes_of(sweep: Sweep) -> list[int]:
    """The batch size of the base, and those that are searched; of a range its end."""
    searched: Any = sweep.space.all_distributions().get("optim.batch_size")
    among = () if searched is None else getattr(searched, "choices", None) or (searched.high,)
    return [sweep.base.optim.batch_size, *among]


def measure_disk(config: TrialConfig, parts: Parts, model: ReidModel, num_trials: int) -> Sizes:
    """What the sweep of a base configuration writes."""
    num_images, matched = len(parts.part_N), config.match.matcher != "none"
    sizes_px = {config.data.image_px, *([config.match.image_px] if matched else [])}
    num_extra = len(pool_of_parts(config, parts).source_E)
    caches = sum(num_images * image_bytes(px) for px in sizes_px) + num_extra * image_bytes(config.data.image_px)
    features = num_images * config.match.num_keypoints * (2 * FLOAT_BYTES + 2 * DESCRIPTOR_LENGTH) if matched else 0
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    kept = min(KEPT_CHECKPOINTS, config.optim.epochs)
    return Sizes(caches, features, CHECKPOINT_STATES * FLOAT_BYTES * trained, num_trials * kept)


def add_up(sizes: Sequence[Sizes]) -> Sizes:
    """Of trials with different configurations that share the prepared data; each checkpoint is counted as the largest.

    Example:
        >>> add_up([Sizes(10, 0, 5, 2), Sizes(10, 4, 3, 1), Sizes(8, 0, 9, 0)])
        Sizes(caches=10, features=4, checkpoint=5, num_checkpoints=3)
    """
    return Sizes(
        max(each.caches for each in sizes),
        max(each.features for each in sizes),
        max((each.checkpoint for each in sizes if each.num_checkpoints), default=0),
        sum(each.num_checkpoints for each in sizes),
    )


def image_bytes(image_px: int) -> int:
    """Of one photograph in an image cache."""
    return 3 * image_px**2


def check_disk(sizes: Sizes, out: Path) -> list[str]:
    """A line about the disk.

    Raises:
        UserError: If there is no room for the photographs and one checkpoint.
    """
    existing = next(path for path in (out, *out.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    images, features = _bytes_of(out / CACHE, "images-*.arrow"), _bytes_of(out / CACHE, "part-*.arrow")
    held = min(images, sizes.caches)
    needed = sizes.least - held
    if needed > free:
        raise UserError(
            f"--out {out}: the first trial needs {format_bytes(needed)} ({sizes.describe()}), and "
            f"{format_bytes(free)} are free; make room, choose another folder, or lower data.image_px"
        )
    warning = "; IT MAY BECOME FULL" if sizes.all - held - min(features, sizes.features) > free else ""
    return [f"{sizes.describe()}; {format_bytes(free)} are free{warning}"]


def check_memory(model: ReidModel, machines: Machines) -> list[str]:
    """A line about memory: processes, weights, and on a CPU their gradients and moments; activations come on top.

    Raises:
        UserError: If a node, or all of them together, have less than that.
    """
    resources = machines.resources
    weights = sum(each.numel() for each in model.parameters())
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    on_cpu = 0 if resources.gpus_per_worker else TRAINED_STATES * trained
    worker = PROCESS_BYTES + FLOAT_BYTES * (weights + on_cpu)
    all_bytes = resources.concurrent * (PROCESS_BYTES + resources.workers * worker)
    largest, there = max(map(_memory_of, machines.nodes)), sum(map(_memory_of, machines.nodes))
    if worker > largest or all_bytes > there:
        raise UserError(
            f"the sweep needs at least {format_bytes(all_bytes)} of memory, {format_bytes(worker)} for each worker "
            f"({resources.describe()}); the cluster has {format_bytes(there)}, the largest node "
            f"{format_bytes(largest)}; lower --concurrent or --workers, or choose a smaller backbone"
        )
    heap = sum(node.get("memory", math.inf) for node in machines.nodes)
    warning = "; RAY MAY END PROCESSES FOR WANT OF MEMORY" if all_bytes > heap else ""
    return [f"at least {format_bytes(all_bytes)} of memory, of {format_bytes(there)}{warning}"]


def check_object_store(config: TrialConfig, batch_sizes: Sequence[int], machines: Machines) -> list[str]:
    """A line if Ray's object store, where batches lie on their way to the workers, will move them to the disk.

    Args:
        config: The base.
        batch_sizes: That trials may have.
        machines: What the trials run on.

    Raises:
        UserError: If not even one worker's batch of the base fits into any node's.
    """
    workers = machines.resources.workers
    largest = max(node.get("object_store_memory", math.inf) for node in machines.nodes)
    share, most = config.optim.batch_size // workers, max(batch_sizes) // workers
    image = image_bytes(config.data.image_px)
    if share * image > largest:
        raise UserError(
            f"Ray's object store has {format_bytes(largest)} on the largest node, and a batch of {share} images takes "
            f"{format_bytes(share * image)}; start Ray with a larger --object-store-memory, or lower optim.batch_size "
            "or data.image_px"
        )
    block = ROWS_PER_TASK * most * image
    if machines.resources.concurrent * workers * block <= sum(
        node.get("object_store_memory", math.inf) for node in machines.nodes
    ):
        return []
    return [
        f"{ROWS_PER_TASK} batches of {most} images for each worker take {format_bytes(block)} of Ray's object store, "
        f"which has {format_bytes(largest)} on the largest node: RAY MAY KEEP SOME ON THE DISK, WHICH IS SLOW"
    ]


def format_bytes(size: float) -> str:
    """For people.

    Example:
        >>> format_bytes(2.5e9), format_bytes(3e6), format_bytes(12)
        ('2.5 GB', '3 MB', '0.01 MB')
    """
    return f"{size / 1e9:.3g} GB" if size >= 999.5e6 else f"{max(size / 1e6, 0.01):.3g} MB"


def _memory_of(node: Node) -> float:
    """Of a node that says nothing of its memory nothing is known."""
    return node["memory"] + node.get("object_store_memory", 0.0) if "memory" in node else math.inf


def _bytes_of(folder: Path, names: str) -> int:
    """Of the files of a folder, and of the folders in it, whose names fit a pattern."""
    return sum(file.stat().st_size for file in folder.rglob(names))
