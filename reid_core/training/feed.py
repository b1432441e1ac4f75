"""What an epoch's batches cost: how long the training loop waited for them, and which images were not augmented.

batches of one rank → the same batches, and numbers of the epoch over all ranks. The device is never waited for.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from reid_core.data.table.findings import SHOWN
from reid_core.model.place import Place
from reid_core.training.batches import Batch, KeptBatch


class Feed:
    """The batches of one epoch on one rank: how long they were waited for, and which images were not augmented."""

    def __init__(self, batches: Iterator[Batch | KeptBatch]) -> None:
        self._batches = batches
        self._started_s, self._waited_s, self._num_images = time.monotonic(), 0.0, 0
        self._failures: list[str] = []

    def __iter__(self) -> Iterator[Batch | KeptBatch]:
        while True:
            asked_s = time.monotonic()
            batch = next(self._batches, None)
            self._waited_s += time.monotonic() - asked_s
            if batch is None:
                return
            self._num_images += len(batch.identity_B)
            self._failures += batch.failures
            yield batch

    def measure(self, place: Place) -> dict[str, Any]:
        """The epoch's training up to now, over all ranks; to be asked for when the device has computed its last step.

        Returns:
            `images_per_s` trained, `data_wait_share` (of the time, mean over ranks, in [0, 1]); if images could not be
            augmented, `not_augmented`, how often, and `not_augmented_examples`, the first few by name.
        """
        seconds = time.monotonic() - self._started_s
        mine = np.array([[self._num_images, seconds, self._waited_s / seconds if seconds else 0.0]])
        num_images, seconds_W, share_W = place.gather(mine).T
        measured: dict[str, Any] = {
            "images_per_s": float(num_images.sum() / seconds_W.max()),
            "data_wait_share": float(share_W.mean()),
        }
        # Arrays of numbers are all that ranks exchange.
        lines = "\n".join([*map(json.dumps, self._failures), "\n"]).encode()  # never empty: gloo wants something
        gathered = place.gather(np.frombuffer(lines, np.uint8)).tobytes().splitlines()
        failures = sorted(map(json.loads, filter(None, gathered)))
        if failures:
            measured |= {
                "not_augmented": len(failures),
                "not_augmented_examples": list(dict.fromkeys(failures))[:SHOWN],
            }
        return measured
