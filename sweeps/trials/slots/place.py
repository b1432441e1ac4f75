"""A worker of a slot for what is no trial: it is there already, with all that it takes in memory.

what the trials share → `Worker`, or a `Place` for a new process where no slot is open → a function's result.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ray.exceptions import RayError

from sweeps.machines.places import Place, hold_place
from sweeps.machines.waiting import wait_for
from sweeps.trials.context import SweepContext
from sweeps.trials.slots.desk import Task

Given = TypeVar("Given")


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker of a slot that has no trial; from `hold_worker`."""

    slot: Any  # handle
    what: str  # it is held for, in words
    patience_s: float | None

    def run(self, function: Callable[..., Given], *args: Any, max_retries: int = 0, **options: Any) -> Given:
        """See `Place.run`.

        Raises:
            UserError: That the function raised.
            WaitedTooLongError: If the slot's workers are lost, and there is no place for new ones for too long.
        """
        task = Task(function, args, options)
        for left in range(max_retries, -1, -1):
            try:
                outcome = wait_for(self.slot.do.remote(self.what, task), self.what, patience_s=self.patience_s)
            except RayError:
                if not left:
                    raise
                continue
            break
        return Task.result_of(outcome)


@contextmanager
def hold_worker(what: str, context: SweepContext, *, num_gpus: float = 0.0) -> Iterator[Worker | Place]:
    """A worker of an open slot, once it waits for work; else 1 CPU and GPUs of one node, as in `hold_place`.

    Args:
        what: The task that it is for, in words.
        context: Of the sweep, whose trials have all ended.
        num_gpus: GPUs, or a part of one; a slot's worker has those of a trial's.

    Raises:
        WaitedTooLongError: If there is none for `--give-up-after`.
    """
    patience_s = context.resources.patience_s
    if context.pool is None or not context.pool.slots:
        with hold_place(what, num_gpus=num_gpus, patience_s=patience_s) as place:
            yield place
        return
    slot = context.pool.slots[0]
    wait_for(slot.is_idle.remote(), f"{what}, by a worker of a slot", patience_s=patience_s)
    yield Worker(slot=slot, what=what, patience_s=patience_s)
