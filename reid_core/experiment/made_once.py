"""What the first trial that needs it makes for all trials, in the folder of the caches.

how to read it, how to make it → the same value on every rank of every trial, made once.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np

from reid_core.files.claim import claim
from reid_core.model.place import Place

POLL_S = 0.2
PATIENCE_S = 60.0  # for a file that one rank sees and another does not yet
Value = TypeVar("Value")


def make_once(file: Path, place: Place, read: Callable[[], Value | None], make: Callable[[], Value]) -> Value:
    """Read a value that some trial has made, or make it; while another trial is at work on it, wait.

    Every rank calls this. Ranks ask each other again and again while they wait, so that no exchange between them is
    left open for longer than communication may take.

    Args:
        file: Names the value among trials; on a cluster, in a folder that every node sees.
        place: Of this rank.
        read: The value, or None where it is not there, or damaged.
        make: Makes it, on all ranks together, and writes it, on rank 0.
    """
    started = time.monotonic()
    while True:
        with claim(file) if place.rank == 0 else nullcontext(False) as is_mine:
            value = read()
            found_W = place.gather(np.array([int(value is not None)]))
            if value is not None and found_W.all():
                return value
            late = time.monotonic() - started > PATIENCE_S
            # Rank 0 decides: it alone knows who has the claim.
            if place.gather(np.array([int(is_mine and (value is None or late))]))[0]:
                return make()
        time.sleep(POLL_S)
