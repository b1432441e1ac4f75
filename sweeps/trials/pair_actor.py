"""The pair store of a sweep as one Ray actor, which every trial on every node asks before it scores a pair.

codes of pairs (P,) and who wants them → their scores, or whose turn it is to score them; scores → kept. Paper §5.1.
Letters: N images, P pairs.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reid_core.errors import UserError
from reid_core.files.checksums import digest_of
from reid_core.matching.pairs.store import PairStore
from sweeps.machines.waiting import wait_for

LEASE_S = 600.0
ANSWER_S = 60.0  # a store that does not answer within this time counts as lost
LOCK_WAIT_S = 30.0  # the store of a sweep that was killed a moment ago may not have ended yet
logger = logging.getLogger(__name__)


class PairActor:
    """A `PairStore` whose users can wait for each other; see there. It lives in one process, as a Ray actor."""

    def __init__(self, folder: str, digest: str, *, symmetric: bool, lease_s: float) -> None:
        """Describe the store; `open` opens it.

        Args:
            folder: Where the log is.
            digest: Digest of the matcher's settings (`store.store_name`).
            symmetric: Whether the score of (a, b) is the score of (b, a).
            lease_s: How long an owner may be silent (no claim, no put) before those that wait take its pairs over.
        """
        self.store: PairStore  # from `open` on
        self._path = Path(folder) / f"pairs-{digest}.log"
        self._digest = digest
        self._symmetric = symmetric
        self._lease_s = lease_s
        self._seen: dict[str, float] = {}  # monotonic time of each owner's last claim or put
        self._num_releases = 0
        self._changed = asyncio.Condition()

    async def open(self) -> None:
        """Open the log; an error here reaches the process that starts the store, one in `__init__` would not.

        Raises:
            UserError: If it cannot be opened, another sweep has it open, or it is of other settings.
        """
        if not hasattr(self, "store"):
            self.store = PairStore(self._path, symmetric=self._symmetric, digest=self._digest, lock_wait_s=LOCK_WAIT_S)

    async def register(self, keys: Sequence[str]) -> tuple[np.ndarray, bool]:
        """Ids (N,) of images by content key, and whether pairs are unordered: what `encode_pairs` needs."""
        return self.store.register(keys), self._symmetric

    async def look(self, pair_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `PairStore.look`."""
        return self.store.look(pair_P)

    async def claim(self, pair_P: np.ndarray, owner: str, *, wait: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """See `PairStore.claim`; with `wait` not before the others have scored these pairs, or some were released."""
        self._seen[owner] = time.monotonic()
        if wait:
            await self._wait(pair_P, owner)
            self._seen[owner] = time.monotonic()
        return self.store.claim(pair_P, owner)

    async def put(self, pair_P: np.ndarray, score_P: np.ndarray, owner: str) -> None:
        """See `PairStore.put`."""
        self._seen[owner] = time.monotonic()
        self.store.put(pair_P, score_P, owner)
        await self._notify()

    async def release(self, owner: str) -> None:
        """Free what an owner claimed and did not put, and what owners below it did ("trial-0003/0" of "trial-0003")."""
        for name in self.store.owners():
            if name == owner or name.startswith(f"{owner}/"):
                self.store.release(name)
        self._num_releases += 1
        await self._notify()

    async def stats(self) -> dict[str, int]:
        """See `PairStore.stats`."""
        return self.store.stats()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, pair_P: np.ndarray, owner: str) -> None:
        num_releases = self._num_releases
        while holders := self.store.holders(pair_P, owner):
            silent_s = {name: time.monotonic() - self._seen[name] for name in holders}
            dead = [name for name in holders if silent_s[name] >= self._lease_s]
            for name in dead:
                logger.warning("%s has been silent for %.0f s: others score its pairs", name, silent_s[name])
                await self.release(name)
            if self._num_releases > num_releases:
                return
            pair_P = np.concatenate(list(holders.values()))
            await self._change(timeout_s=self._lease_s - max(silent_s.values()))

    async def _change(self, *, timeout_s: float) -> None:
        """Return when something was put or released, or the time is over."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError:
                return


def start_pair_store(
    folder: Path, digest: str, *, symmetric: bool, lease_s: float = LEASE_S, patience_s: float | None = None
) -> Any:
    """Start the pair store of one matcher on this node, or find it if this Ray session has it.

    Args:
        folder: Where the log is, `pairs-<digest>.log`; several sweeps may use it one after the other.
        digest: Digest of the matcher's settings (`store.store_name`).
        symmetric: Whether the score of (a, b) is the score of (b, a), to the last bit.
        lease_s: How long an owner may be silent before those that wait take its pairs over.
        patience_s: How long its process may find no place; None: for ever.

    Returns:
        Handle of the actor, for `SharedScorer`; it may be sent to other processes. The actor ends with this session.

    Raises:
        UserError: If the log cannot be opened, another sweep uses it, or it is of other settings.
    """
    place = digest_of(str(folder.resolve()))
    handle: Any = (
        ray.remote(PairActor)
        .options(
            name=f"pair-store-{digest}-{place}",
            get_if_exists=True,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        )
        .remote(str(folder), digest, symmetric=symmetric, lease_s=lease_s)
    )
    try:
        wait_for(handle.open.remote(), "the pair store's process", patience_s=patience_s)
    except RayTaskError as error:
        ray.kill(handle)
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    return handle


def release_pairs(handle: Any, owner: str) -> None:
    """Free what a trial and its workers claimed and did not score; for the end of a trial, never fails."""
    try:
        ray.get(handle.release.remote(owner), timeout=ANSWER_S)
    except RayError as error:
        logger.warning("%s: the pair store does not learn that it ended: %s", owner, first_line(error))


def first_line(error: BaseException) -> str:
    """What a message of several lines begins with."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
