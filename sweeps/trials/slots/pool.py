"""The slots of a command: opened when they are first needed, kept from stage to stage and from group to group.

resources → handles of slots.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.machines.resources import Resources
from sweeps.trials.slots.slot import CLOSE_S, Slot


class Pool:
    """Slots that this process has opened. They are Ray actors on its node, which a sweep cannot outlive anyway."""

    def __init__(self, resources: Resources, out: Path) -> None:
        """None is opened yet.

        Args:
            resources: Of a trial, and how many run at a time.
            out: Result folder, for what Ray Train writes; every node sees it.
        """
        self.slots: list[Any] = []  # handles
        self._left: list[Any] = []  # that are closing
        self.resources, self._out = resources, out

    def __deepcopy__(self, memo: dict) -> "Pool":
        """Itself: Ray Tune copies what it calls back."""
        return self

    def __reduce__(self) -> tuple:
        """None: the context may go anywhere, and another process has opened no slot, nor does it load torch for it."""
        return type(None), ()

    def provide(self, num_trials: int) -> list[Any]:
        """Slots for so many trials, `Resources.concurrent` at most."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Slot).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
        folder = str(self._out / "tune" / "slots")
        while len(self.slots) < min(self.resources.concurrent, num_trials):
            slot = actor.remote(len(self.slots), self.resources, folder)
            slot.start_workers.remote()
            self.slots.append(slot)
        return self.slots

    def clear(self) -> None:
        """After a run: leave the trials that a slot may still have at hand, and end the slots that it let go."""
        _end(self._left)
        self._left = []
        with suppress(RayError):
            ray.wait([slot.clear.remote() for slot in self.slots], num_returns=len(self.slots), timeout=CLOSE_S)

    def let_go(self) -> None:
        """Close all slots, and do not wait: what waits for a report gets none."""
        for slot in self.slots:
            slot.close.remote()
        self._left, self.slots = self._left + self.slots, []

    def close(self) -> None:
        """End all slots."""
        _end(self._left + self.slots)
        self._left, self.slots = [], []


def _end(slots: list[Any]) -> None:
    """End slots with all that they have started; what they held is free soon after."""
    with suppress(RayError):
        ray.wait([slot.close.remote() for slot in slots], num_returns=len(slots), timeout=CLOSE_S)
    for slot in slots:
        with suppress(RayError):
            ray.kill(slot)


@contextmanager
def keep_slots(resources: Resources, out: Path, *, pool: Pool | None = None) -> Iterator[Pool]:
    """Slots that stay for several runs, and end with the outermost of those that keep them.

    Args:
        resources: Of a trial, and how many run at a time.
        out: Result folder, for what Ray Train writes; every node sees it.
        pool: Slots that somebody keeps already.
    """
    if pool is not None:
        yield pool
        return
    pool = Pool(resources, out)
    try:
        yield pool
    finally:
        pool.close()
