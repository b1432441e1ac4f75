"""A hash table of numpy arrays: codes of pairs of images to 32 bits each, many pairs at a time.

codes uint64 (P,) → slots int64 (P,), and 32 bits in each slot. Letters: P pairs, S slots.
"""

import numpy as np

LARGEST_LOAD = 0.75
GROWTH = 1.45  # below 1.5, so that a table that has just grown is more than half full
MOVED_SLOTS = 1_000_000  # at a time while the table grows: bounds memory


class PairTable:
    """Open-addressing hash table. Nothing is ever removed.

    A slot takes 12 bytes, and half to three quarters of the slots are in use: at most 24 bytes per pair.

    Attributes:
        codes_S: Code of the pair in each slot, uint64; 0 in an empty slot, so no pair may have that code.
        bits_S: Its 32 bits, uint32. Slots move when the table grows.
        num_used: Slots in use.
    """

    def __init__(self, new_bits: np.uint32) -> None:
        """Begin an empty table; `new_bits` is what a new pair has."""
        self._new_bits = new_bits
        self._allocate(1024)

    def _allocate(self, capacity: int) -> None:
        self.codes_S = np.zeros(capacity, dtype=np.uint64)
        self.bits_S = np.zeros(capacity, dtype=np.uint32)
        self.num_used = 0

    def find(self, code_P: np.ndarray) -> np.ndarray:
        """Slot of each pair, int64 (P,); -1 where it has none."""
        return self._probe(code_P, place=False)

    def place(self, code_P: np.ndarray) -> np.ndarray:
        """Slot of each pair, int64 (P,); a pair that has none gets one. Pairs may repeat.

        Example:
            >>> table = PairTable(np.uint32(9))
            >>> slot = table.place(np.array([5, 3, 5], dtype=np.uint64))
            >>> bool(slot[0] == slot[2]), table.bits_S[slot].tolist(), table.num_used
            (True, [9, 9, 9], 2)
        """
        slot_P = self.find(code_P)
        num_new = int(np.count_nonzero(slot_P < 0))
        if num_new == 0:
            return slot_P
        self._reserve(num_new)
        return self._probe(code_P, place=True)

    def set(self, code_P: np.ndarray, bits_P: np.ndarray) -> None:
        """Give bits to pairs, which may be new."""
        slot_P = self.place(code_P)  # before `bits_S` is looked up: the table may grow
        self.bits_S[slot_P] = bits_P

    def _probe(self, code_P: np.ndarray, *, place: bool) -> np.ndarray:
        slot_P = np.full(len(code_P), -1, dtype=np.int64)
        left, code = np.arange(len(code_P)), code_P
        mixed = code * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        # Double hashing: each pair has a step of its own, odd, and so long that it leaves the slot.
        step = (mixed * np.uint64(0xFF51AFD7ED558CCD)) | np.uint64(2**45 + 1)
        while len(left):
            slot = (((mixed >> np.uint64(32)) * np.uint64(len(self.codes_S))) >> np.uint64(32)).view(np.int64)
            there = self.codes_S[slot]
            empty = there == 0
            if place and empty.any():
                self._occupy(slot[empty], code[empty])
                there = self.codes_S[slot]
            hit = there == code
            slot_P[left[hit]] = slot[hit]
            on = np.flatnonzero(~hit if place else ~(hit | empty))
            left, code, step = left[on], code[on], step[on]
            mixed = mixed[on] + step
        return slot_P

    def _occupy(self, slots: np.ndarray, codes: np.ndarray) -> None:
        """Fill empty slots; of two pairs for one slot the last gets it."""
        self.codes_S[slots] = codes
        order = np.arange(len(slots), dtype=np.uint32)
        self.bits_S[slots] = order  # as many keep their number as there are distinct slots; faster than sorting them
        self.num_used += int(np.count_nonzero(self.bits_S[slots] == order))
        self.bits_S[slots] = self._new_bits

    def _reserve(self, num_more: int) -> None:
        """Grow so that `num_more` pairs fit."""
        needed = int((self.num_used + num_more) / LARGEST_LOAD) + 1
        if needed <= len(self.codes_S):
            return
        codes_S, bits_S = self.codes_S, self.bits_S
        self._allocate(max(needed, int(GROWTH * len(codes_S))))
        for start in range(0, len(codes_S), MOVED_SLOTS):
            used = start + np.flatnonzero(codes_S[start : start + MOVED_SLOTS])
            self.bits_S[self._probe(codes_S[used], place=True)] = bits_S[used]
