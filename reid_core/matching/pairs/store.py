"""Match scores of pairs of images, each computed once: the known ones, and who computes the others.

content keys of images → ids (N,); codes of pairs (P,) → scores float32 (P,) and which of them are missing (paper §5.1).
Letters: N images, P pairs, S slots of the table.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reid_core.data.photographs import UNREADABLE_KEY
from reid_core.files.checksums import digest_of
from reid_core.matching.pairs.log import KEYS, PAIRS, PairLog
from reid_core.matching.pairs.table import PairTable

# Rows of the query and of the gallery image of each pair (P,) → match score (P,), NaN where a pair cannot be scored.
ScorePairs = Callable[[np.ndarray, np.ndarray], np.ndarray]
KNOWN, YOURS, PENDING = 0, 1, 2  # states of a claimed pair, see `PairStore.claim`
NO_CONTENT = 0  # id of every unreadable image
NOT_SCORABLE = np.uint64(2**64 - 1)  # code of every pair with an unreadable image

# A score is kept as its 32 bits. NaN has one form; its other forms say who is scoring the pair.
NAN_BITS = np.uint32(0x7FC00000)
HELD = np.uint32(0xFFC00000)  # smallest of them, plus the number of the owner; number 0: nobody
MAX_OWNERS = 2**22 - 1

CODE_BYTES, KEY_BYTES, PAIR_BYTES = 8, 16, 12
REPLAY_BYTES = 12_000_000  # at a time: bounds memory


def store_name(settings: Mapping[str, Any]) -> str:
    """Name of the store of a matcher: the digest of its settings, 32 hexadecimal characters.

    Args:
        settings: Everything that a score depends on beside the two photographs, as JSON types; in any order.

    Example:
        >>> store_name({"matcher": "sift-mnn", "px": 256}) == store_name({"px": 256, "matcher": "sift-mnn"})
        True
    """
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_of(canonical, num_bytes=16)


class PairStore:
    """Scores of pairs by one matcher, and who computes the missing ones. Thread-safe.

    The scores are in memory and in a log (`PairLog`), which is read when the store is opened. What is damaged there is
    left out with one warning and computed again; if it cannot be written, the store goes on in memory with a warning.
    """

    def __init__(self, path: Path | None, *, symmetric: bool, digest: str = "", lock_wait_s: float = 0.0) -> None:
        """Open the store, or begin it.

        Args:
            path: The log; None keeps the scores in memory only.
            symmetric: Whether the score of (a, b) is the score of (b, a), to the last bit.
            digest: Digest of the matcher's settings (`store_name`): other settings need another store.
            lock_wait_s: How long to wait for a process that has the file open.

        Raises:
            UserError: If another process keeps the file open, it cannot be opened, or it belongs to other settings.
        """
        self.symmetric = symmetric
        self._lock = threading.Lock()
        self._table = PairTable(new_bits=HELD)
        self._ids: dict[bytes, int] = {}
        self._next_id = NO_CONTENT + 1
        self._number_of: dict[str, int] = {"": 0}  # owners, in the order of their numbers
        self._counts = {"hits": 0, "misses": 0, "scored": 0}
        self._table.set(np.array([NOT_SCORABLE]), np.array([NAN_BITS]))
        self._log = None if path is None else PairLog(path, symmetric=symmetric, digest=digest, lock_wait_s=lock_wait_s)
        if self._log:
            self._replay(self._log)

    def close(self) -> None:
        """Let go of the file; the scores stay in memory."""
        if self._log:
            self._log.close()

    @property
    def nbytes(self) -> int:
        """Bytes of the table in memory."""
        return self._table.codes_S.nbytes + self._table.bits_S.nbytes

    def register(self, keys: Sequence[str]) -> np.ndarray:
        """Ids of images: a key has the same id for the life of the file, and no other key ever gets it.

        Args:
            keys: Content key of each image, 32 hexadecimal characters (`ImageCache.keys`). UNREADABLE_KEY has the id
                NO_CONTENT: unreadable images share an id and, their pairs being NOT_SCORABLE, never a score.

        Returns:
            Ids, uint32, shape (N,).

        Raises:
            ValueError: If a key is not of that form.
        """
        content = [bytes.fromhex(key) for key in keys]
        if any(len(key) != KEY_BYTES for key in content):
            raise ValueError(f"the content key of an image has {2 * KEY_BYTES} hexadecimal characters")
        unreadable = bytes.fromhex(UNREADABLE_KEY)
        with self._lock:
            new = [key for key in dict.fromkeys(content) if key not in self._ids and key != unreadable]
            if new and self._log:
                self._log.append(KEYS, self._next_id, b"".join(new))
            self._give_ids(new, self._next_id)
            return np.array([self._ids.get(key, NO_CONTENT) for key in content], dtype=np.uint32)

    def encode(self, ids_a: np.ndarray, ids_b: np.ndarray) -> np.ndarray:
        """Codes of pairs, uint64 (P,); the same for (a, b) and (b, a) if the store is symmetric.

        Args:
            ids_a: Ids of the query images; shape (P,), uint32.
            ids_b: Ids of the gallery images; shape (P,), uint32.
        """
        return encode_pairs(ids_a, ids_b, symmetric=self.symmetric)

    def look(self, pair_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The known scores of some pairs (counted as hits); claims nothing.

        Args:
            pair_P: Codes of pairs (`encode`); shape (P,).

        Returns:
            score_P: float32; NaN where the pair cannot be scored or is not known.
            known_P: bool.
        """
        with self._lock:
            bits_P = self._bits(_codes(pair_P))
            known_P = bits_P < HELD
            self._counts["hits"] += int(np.count_nonzero(known_P))
            return _scores(bits_P), known_P

    def claim(self, pair_P: np.ndarray, owner: str) -> tuple[np.ndarray, np.ndarray]:
        """The known scores of some pairs; of the others, the owner claims those that nobody else has claimed.

        Args:
            pair_P: Codes of pairs (`encode`); shape (P,).
            owner: Name of one thread of one process at a time: what it claimed before and never put is its again.

        Returns:
            score_P: float32; NaN where the pair cannot be scored or is not known.
            state_P: uint8. KNOWN: the score is valid (a hit). YOURS: the owner must score the pair and `put` it (a
                miss). PENDING: another owner is scoring it, or it repeats a pair that is YOURS in this very call;
                it counts when it is asked for again.

        Example:
            >>> store = PairStore(None, symmetric=True)
            >>> ada, bo = store.register(["a" * 32, "b" * 32])
            >>> pair = store.encode([ada, bo], [bo, ada])
            >>> store.claim(pair, "trial-0000")[1].tolist()
            [1, 2]
            >>> store.put(pair[:1], np.array([7.0]), "trial-0000")
            >>> store.claim(pair, "trial-0001")[0].tolist()
            [7.0, 7.0]
        """
        pair_P = _codes(pair_P)
        with self._lock:
            slot_P = self._table.place(pair_P)
            bits_P, mine = self._table.bits_S[slot_P], HELD | self._number(owner)
            state_P = np.where(bits_P < HELD, KNOWN, PENDING).astype(np.uint8)
            yours = _first_of_each(slot_P, (bits_P == HELD) | (bits_P == mine))
            state_P[yours] = YOURS
            self._table.bits_S[slot_P[yours]] = mine
            self._counts["hits"] += int(np.count_nonzero(state_P == KNOWN))
            self._counts["misses"] += len(yours)
            return _scores(bits_P), state_P

    def put(self, pair_P: np.ndarray, score_P: np.ndarray, owner: str) -> None:
        """Keep scores, in memory and in the log as one batch. A pair that is known keeps the score it has.

        Args:
            pair_P: Codes of pairs (`encode`); shape (P,).
            score_P: Scores, shape (P,); NaN: the pair cannot be scored.
            owner: Who scored them; if it lost its claim meanwhile, the scores are as good.

        Raises:
            ValueError: If there are more or fewer scores than pairs.
        """
        pair_P, bits_P = _codes(pair_P), _bits_of(score_P)
        if pair_P.shape != bits_P.shape:
            raise ValueError(f"{owner}: scores of shape {bits_P.shape} for pairs of shape {pair_P.shape}")
        with self._lock:
            self._counts["scored"] += len(pair_P)
            slot_P = self._table.place(pair_P)
            new = _first_of_each(slot_P, self._table.bits_S[slot_P] >= HELD)
            self._table.bits_S[slot_P[new]] = bits_P[new]
            if len(new) and self._log:
                self._log.append(PAIRS, 0, pair_P[new].astype("<u8").tobytes() + bits_P[new].astype("<u4").tobytes())

    def release(self, owner: str) -> None:
        """Free the pairs that an owner claimed and did not put: it died or gave up."""
        with self._lock:
            if owner in self._number_of:
                bits_S = self._table.bits_S
                bits_S[bits_S == (HELD | self._number(owner))] = HELD

    def holders(self, pair_P: np.ndarray, owner: str) -> dict[str, np.ndarray]:
        """Which of some pairs other owners are scoring: name of the owner → codes of its pairs."""
        pair_P = _codes(pair_P)
        with self._lock:
            bits_P, names = self._bits(pair_P), list(self._number_of)
            found = np.unique(bits_P[bits_P > HELD])
            held = {names[int(bits - HELD)]: pair_P[bits_P == bits] for bits in found}
            return {name: pairs for name, pairs in held.items() if name != owner}

    def owners(self) -> list[str]:
        """Everyone who has claimed a pair since the store was opened."""
        return list(self._number_of)[1:]

    def stats(self) -> dict[str, int]:
        """Counts: `hits`, `misses` and `scored` since the store was opened; pairs `stored` and `pending` now.

        A pair that is asked for counts once it is answered: as a hit with its score, or as a miss, to be scored by the
        one that asked. `scored` counts the scores that were put.
        """
        with self._lock:
            unknown = int(np.count_nonzero(self._table.bits_S >= HELD))
            stored = self._table.num_used - unknown - 1  # NOT_SCORABLE has a slot too
            return self._counts | {"stored": stored, "pending": int(np.count_nonzero(self._table.bits_S > HELD))}

    def _bits(self, pair_P: np.ndarray) -> np.ndarray:
        """Bits of pairs, HELD by nobody where there are none."""
        slot_P = self._table.find(pair_P)
        return np.where(slot_P >= 0, self._table.bits_S[slot_P], HELD)

    def _number(self, owner: str) -> np.uint32:
        number = self._number_of.setdefault(owner, len(self._number_of))
        if number > MAX_OWNERS:
            raise RuntimeError(f"a pair store knows at most {MAX_OWNERS} owners")
        return np.uint32(number)

    def _give_ids(self, keys: Sequence[bytes], first_id: int) -> None:
        self._ids.update(zip(keys, range(first_id, first_id + len(keys)), strict=True))
        self._next_id = max(self._next_id, first_id + len(keys))

    def _replay(self, log: PairLog) -> None:
        payloads: list[bytes] = []
        num_bytes = 0
        for kind, first_id, payload in log.read():
            if kind == KEYS:
                self._give_ids([payload[i : i + KEY_BYTES] for i in range(0, len(payload), KEY_BYTES)], first_id)
                continue
            payloads.append(payload)
            num_bytes += len(payload)
            if num_bytes >= REPLAY_BYTES:
                self._replay_pairs(payloads, log.is_damaged)
                payloads, num_bytes = [], 0
        self._replay_pairs(payloads, log.is_damaged)

    def _replay_pairs(self, payloads: Sequence[bytes], is_damaged: bool) -> None:
        codes = [payload[: len(payload) // PAIR_BYTES * CODE_BYTES] for payload in payloads]
        bits = [payload[len(payload) // PAIR_BYTES * CODE_BYTES :] for payload in payloads]
        pair_P, bits_P = np.frombuffer(b"".join(codes), "<u8"), np.frombuffer(b"".join(bits), "<u4")
        id_P2 = np.stack([pair_P >> np.uint64(32), pair_P & np.uint64(2**32 - 1)], axis=1)
        # An id whose key was lost must not become another image's: the file still has its pairs.
        self._next_id = max(self._next_id, int(id_P2.max(initial=0)) + 1)
        if is_damaged:
            has_keys_P = np.isin(id_P2, np.array(list(self._ids.values()), dtype=np.uint64)).all(axis=1)
            pair_P, bits_P = pair_P[has_keys_P], bits_P[has_keys_P]
        self._table.set(pair_P, bits_P)


def encode_pairs(ids_a: np.ndarray, ids_b: np.ndarray, *, symmetric: bool) -> np.ndarray:
    """Codes of pairs, uint64 (P,), from the ids of their images; see `PairStore.encode`."""
    ids_a, ids_b = np.asarray(ids_a, dtype=np.uint32), np.asarray(ids_b, dtype=np.uint32)
    if symmetric:
        ids_a, ids_b = np.minimum(ids_a, ids_b), np.maximum(ids_a, ids_b)
    pair_P = (ids_a.astype(np.uint64) << np.uint64(32)) | ids_b
    return np.where((ids_a == NO_CONTENT) | (ids_b == NO_CONTENT), NOT_SCORABLE, pair_P)


def _codes(pair_P: np.ndarray) -> np.ndarray:
    return np.asarray(pair_P, dtype=np.uint64)


def _bits_of(score_P: np.ndarray) -> np.ndarray:
    score_P = np.ascontiguousarray(score_P, dtype=np.float32)
    return np.where(np.isnan(score_P), NAN_BITS, score_P.view(np.uint32))


def _scores(bits_P: np.ndarray) -> np.ndarray:
    return np.where(bits_P < HELD, bits_P, NAN_BITS).view(np.float32)


def _first_of_each(slot_P: np.ndarray, chosen_P: np.ndarray) -> np.ndarray:
    """Positions of the first of the chosen pairs in each slot."""
    positions = np.flatnonzero(chosen_P)
    return positions[np.unique(slot_P[positions], return_index=True)[1]]
