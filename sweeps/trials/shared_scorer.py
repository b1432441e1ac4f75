"""The way of a trial's process to the pair store: scores come from there, or are computed once and kept there.

rows of query and gallery images (P,) and a function that scores pairs → scores float32 (P,), each pair scored once.
Paper §5.1. Letters: N images, P pairs, B pairs of a block.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from reid_core.config.parameters import TrialConfig
from reid_core.experiment.prepared import Prepared
from reid_core.matching.matchers import SYMMETRIC, score_settings
from reid_core.matching.pairs.store import KNOWN, PENDING, YOURS, ScorePairs, encode_pairs, store_name
from sweeps.machines.resources import Resources
from sweeps.trials.pair_actor import ANSWER_S, first_line, start_pair_store

logger = logging.getLogger(__name__)


def open_pair_store(config: TrialConfig, prepared: Prepared, folder: Path, resources: Resources) -> Any:
    """The pair store of a sweep whose trials score on a device, or None where nothing is matched."""
    if config.match.matcher == "none" or prepared.features is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    digest, symmetric = (
        store_name(score_settings(config.match, device=resources.device)),
        config.match.matcher in SYMMETRIC,
    )
    return start_pair_store(folder, digest, symmetric=symmetric, patience_s=resources.patience_s)


@dataclass
class Counts:
    """Where the scores came from that one scorer was asked for."""

    hits: int = 0  # the store had the score, or another trial was computing it
    misses: int = 0  # it was nowhere yet
    scored: int = 0  # by this scorer: the misses, and all the rest if the store was lost


class SharedScorer:
    """Scores pairs, but only those that no other trial has scored or is scoring. One for each process of a trial.

    If the store is lost it scores everything itself, with one warning.

    Attributes:
        counts: Where the scores came from so far.
    """

    def __init__(self, handle: Any, keys: Sequence[str], owner: str, *, block_pairs: int = 512) -> None:
        """Hold the way to the store; it is asked when the first pairs are.

        Args:
            handle: The store, from `start_pair_store`.
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
            Exception: Whatever `score` raises; the store then gives the pairs to others.
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
        """Score what no other trial does, in blocks, so that trials with the same pairs share the work; then wait."""
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
            raise _StoreLostError(first_line(error)) from error

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
