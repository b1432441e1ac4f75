"""A place for one task, held before anything depends on it: what is written down before the task then surely runs.

CPUs and GPUs of one node → `Place` → the task's result.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweeps.machines.waiting import POLL_S, Watch, wait_for

Given = TypeVar("Given")


@dataclass(frozen=True, kw_only=True)
class Place:
    """1 CPU, and GPUs, of one node; from `hold_place`."""

    group: PlacementGroup
    what: str  # it is held for, in words
    num_gpus: float
    patience_s: float | None

    def run(self, function: Callable[..., Given], *args: Any, max_retries: int = 0, **options: Any) -> Given:
        """Call a function in a task there.

        Args:
            function: Is called once, unless `max_retries`.
            args: Of the function.
            max_retries: How often Ray may call it again if its process dies.
            options: Of the function.

        Raises:
            WaitedTooLongError: If the place is lost before the task begins, and there is no other for too long.
        """
        task: Any = ray.remote(
            num_cpus=1,
            num_gpus=self.num_gpus,
            max_retries=max_retries,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.group),
        )(function)  # type: ignore[arg-type]
        return wait_for(task.remote(*args, **options), self.what, patience_s=self.patience_s)


@contextmanager
def hold_place(what: str, *, num_gpus: float = 0.0, patience_s: float | None) -> Iterator[Place]:
    """Wait for 1 CPU and GPUs of one node, and keep them.

    Args:
        what: The task that they are for, in words.
        num_gpus: GPUs, or a part of one.
        patience_s: How long they may not be to be had; None: for ever.

    Raises:
        WaitedTooLongError: If there are none for that long.
    """
    what = f"{what}, by a task of 1 CPU and {num_gpus:g} GPU"
    group = placement_group([{"CPU": 1.0, **({"GPU": num_gpus} if num_gpus else {})}])
    try:
        watch = Watch(what=lambda: what, patience_s=patience_s, always=True)
        while not group.wait(POLL_S):
            watch.check()
        yield Place(group=group, what=what, num_gpus=num_gpus, patience_s=patience_s)
    finally:
        remove_placement_group(group)
