"""The pair store of a sweep: one Ray actor that every trial on every node asks before it scores a pair.

rows of query and gallery images (P,) and a function that scores pairs → scores float32 (P,), each pair scored once.
Paper §5.1. Letters: N images, P pairs, B pairs of a block.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reid_core.errors import UserError
from reid_core.matching.pairs.store import KNOWN, PENDING, YOURS, PairStore, ScorePairs, encode_pairs

LEASE_S = 600.0
ANSWER_S = 60.0  # a store that does not answer within this time counts as lost
LOCK_WAIT_S = 30.0  # the store of a sweep that was killed a moment ago may not have ended yet

logger = logging.getLogger(__name__)


class StoreActor:
    """A `PairStore` whose askers can wait for each other; see there. It lives in one process, as a Ray actor."""

    def __init__(self, folder: str, digest: str, *, symmetric: bool, lease_s: float) -> None:
        """Describe the store; `open` opens it.

        Args:
            folder: Where the log is.
            digest: Digest of the matcher's settings (`store.store_name`).
            symmetric: Whether the score of (a, b) is the score of (b, a).
            lease_s: How long an owner may be silent (no claim, no put) before those who wait take its pairs over.
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
        """Open the log; an error here reaches who starts the store, one in `__init__` would not.

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
        await self._tell()

    async def release(self, owner: str) -> None:
        """Free what an owner claimed and did not put, and what owners below it did ("trial-0003/0" of "trial-0003")."""
        for name in self.store.owners():
            if name == owner or name.startswith(f"{owner}/"):
                self.store.release(name)
        self._num_releases += 1
        await self._tell()

    async def stats(self) -> dict[str, int]:
        """See `PairStore.stats`."""
        return self.store.stats()

    async def _tell(self) -> None:
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


def start_store(folder: Path, digest: str, *, symmetric: bool, lease_s: float = LEASE_S) -> Any:
    """Start the pair store of one matcher on this node, or find it if this Ray session has it.

    Args:
        folder: Where the log is, `pairs-<digest>.log`; several sweeps may use it one after the other.
        digest: Digest of the matcher's settings (`store.store_name`).
        symmetric: Whether the score of (a, b) is the score of (b, a), to the last bit.
        lease_s: How long an owner may be silent before those who wait take its pairs over.

    Returns:
        Handle of the actor, for `SharedScorer`; it may be sent to other processes. The actor ends with this session.

    Raises:
        UserError: If the log cannot be opened, another sweep uses it, or it is of other settings.
    """
    place = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    handle: Any = (
        ray.remote(StoreActor)
        .options(
            name=f"pair-store-{digest}-{place}",
            get_if_exists=True,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        )
        .remote(str(folder), digest, symmetric=symmetric, lease_s=lease_s)
    )
    try:
        ray.get(handle.open.remote())
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
        logger.warning("%s: the pair store cannot be told that it ended: %s", owner, _first_line(error))


@dataclass
class Counts:
    """What became of the pairs that one scorer was asked for."""

    hits: int = 0  # the store had the score, or another trial was computing it
    misses: int = 0  # nobody had it
    scored: int = 0  # by this scorer: the misses, and all the rest if the store was lost


class SharedScorer:
    """Scores pairs, but only those that no other trial has scored or is scoring. One for each process of a trial.

    If the store is lost it scores everything itself, with one warning.

    Attributes:
        counts: What became of the pairs so far.
    """

    def __init__(self, handle: Any, keys: Sequence[str], owner: str, *, block_pairs: int = 512) -> None:
        """Hold the way to the store; it is asked when the first pairs are.

        Args:
            handle: The store, from `start_store`.
            keys: Content key of each image, `ImageCache.keys`; length N.
            owner: Name of this process of the trial, as "trial-0003/0". No other process has it at the same time; one
                that is started again in its place has the same, and so gets back what this one had claimed.
            block_pairs: Pairs that are claimed, scored and put at a time: a crash loses one block.
        """
        self.counts = Counts()
        self._handle: Any = handle
        self._keys = keys
        self._owner = owner
        self._block_pairs = block_pairs
        self._ids_N: np.ndarray | None = None
        self._symmetric = False

    def __call__(self, query_P: np.ndarray, gallery_P: np.ndarray, score: ScorePairs) -> np.ndarray:
        """Scores of pairs of images, from the store or computed.

        Args:
            query_P: Rows of the query images, in 0 … N-1; shape (P,).
            gallery_P: Rows of the gallery images; shape (P,).
            score: Scores such pairs; a pair's score must not depend on the pairs beside it.

        Returns:
            Scores, float32 (P,); NaN where a pair cannot be scored.

        Raises:
            Exception: Whatever `score` raises; the store is told that the pairs are not scored.
        """
        work = _Work(np.asarray(query_P), np.asarray(gallery_P), score)
        if self._handle is not None:
            try:
                self._share(work)
            except _StoreLostError as error:
                logger.warning("%s: the pair store is lost, all pairs are scored here: %s", self._owner, error)
                self._handle = None
        for block_B in self._blocks(np.flatnonzero(~work.is_done_P)):
            self.counts.scored += len(block_B)
            work.do(block_B)
        return work.score_P

    def _share(self, work: "_Work") -> None:
        """Score what is nobody's, block by block, so that trials with the same pairs divide them; wait for the rest."""
        code_P = self._encode(work.query_P, work.gallery_P)
        score_P, is_known_P = self._ask("look", code_P)
        work.fill(np.flatnonzero(is_known_P), score_P[is_known_P])
        self.counts.hits += int(np.count_nonzero(is_known_P))
        left_P, wait = np.flatnonzero(~is_known_P), False
        try:
            while len(left_P):
                left_P = np.concatenate([self._share_block(work, code_P, b, wait) for b in self._blocks(left_P)])
                wait = True
        except BaseException:
            self._handle.release.remote(self._owner)
            raise

    def _share_block(self, work: "_Work", code_P: np.ndarray, block_B: np.ndarray, wait: bool) -> np.ndarray:
        """Get or compute the scores of a block; those of its pairs that others are scoring."""
        score_B, state_B = self._ask("claim", code_P[block_B], self._owner, wait=wait)
        known_B, yours = state_B == KNOWN, block_B[state_B == YOURS]
        work.fill(block_B[known_B], score_B[known_B])
        self.counts.hits += int(np.count_nonzero(known_B))
        self.counts.misses += len(yours)
        if len(yours):
            work.do(yours)
            self.counts.scored += len(yours)
            self._ask("put", code_P[yours], work.score_P[yours], self._owner)
        return block_B[state_B == PENDING]

    def _encode(self, query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
        if self._ids_N is None:
            self._ids_N, self._symmetric = self._ask("register", self._keys)
        return encode_pairs(self._ids_N[query_P], self._ids_N[gallery_P], symmetric=self._symmetric)

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the actor. Only waiting for other trials may take as long as it takes."""
        try:
            answer = getattr(self._handle, method).remote(*args, **kwargs)
            return ray.get(answer, timeout=None if kwargs.get("wait") else ANSWER_S)
        except RayError as error:
            raise _StoreLostError(_first_line(error)) from error

    def _blocks(self, position_P: np.ndarray) -> list[np.ndarray]:
        return [position_P[i : i + self._block_pairs] for i in range(0, len(position_P), self._block_pairs)]


class _StoreLostError(Exception):
    """The store does not answer."""


class _Work:
    """Pairs to score: what is asked, and what is done so far."""

    def __init__(self, query_P: np.ndarray, gallery_P: np.ndarray, score: ScorePairs) -> None:
        self.query_P, self.gallery_P, self._score = query_P, gallery_P, score
        self.score_P = np.full(len(query_P), np.nan, dtype=np.float32)
        self.is_done_P = np.zeros(len(query_P), dtype=bool)

    def fill(self, position_B: np.ndarray, score_B: np.ndarray) -> None:
        self.score_P[position_B] = score_B
        self.is_done_P[position_B] = True

    def do(self, position_B: np.ndarray) -> None:
        self.fill(position_B, self._score(self.query_P[position_B], self.gallery_P[position_B]))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
