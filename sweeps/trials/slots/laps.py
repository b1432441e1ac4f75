"""A trial's training with a stopwatch: which seconds are its batches', its steps', its evaluation's.

batches, evaluation → the same, timed.
"""

from collections.abc import Generator, Iterator
from typing import TypeVar

from reid_core.training.trainer import Evaluate
from sweeps.results.timeline import Laps

Item = TypeVar("Item")


def timed_batches(batches: Iterator[Item], laps: Laps) -> Generator[Item]:
    """The same batches; the time between two of them is training."""
    waiting = "first batch"
    while True:
        laps.lap("training")
        item = next(batches, None)
        laps.lap(waiting)
        if item is None:
            return
        waiting = "later batches"
        yield item


def timed_evaluation(evaluate: Evaluate, laps: Laps) -> Evaluate:
    """The same evaluation; what came before it was training."""

    def timed(model):  # type: ignore[no-untyped-def]
        laps.lap("training")
        found = evaluate(model)
        laps.lap("validation")
        return found

    return timed
