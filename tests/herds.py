"""Herds of given shapes, their splits, and what a split made of them."""

from collections import Counter

import numpy as np

from reid_core.data.splits.assign import assign_parts
from reid_core.data.splits.parts import is_known
from reid_core.data.splits.rule import SplitRule

SHAPES = {
    "salamanders": [1] * 310 + [2] * 100 + [3] * 60 + [4] * 50 + [6] * 50 + [20] * 17,
    "cows": [20] * 38,
    "lynx": [1] * 6 + [*range(2, 62)] + [80, 100, 120, 150, 200, 353],
    "five": [4, 4, 4, 4, 4],
    "skewed": [50, 3, 1, 1],
    "singletons": [1] * 30,
    "pairs": [2] * 30,
    "one": [10],
    "one image": [1],
}


def rows_of(counts: list[int], group: str = "g") -> tuple[np.ndarray, np.ndarray]:
    identities = [f"{group}{k:03d}" for k, count in enumerate(counts) for _ in range(count)]
    return np.array(identities, dtype=object), np.full(len(identities), group, dtype=object)


def split(identity_N, group_N, *, date_N=None, **settings) -> np.ndarray:
    """`assign_parts` by the rule of some settings."""
    return assign_parts(identity_N, group_N, rule=SplitRule(**settings), date_N=date_N)


def sizes_of(part_N: np.ndarray, identity_N: np.ndarray, group_N: np.ndarray) -> dict[tuple[str, bool], int]:
    known_N = is_known(part_N, identity_N, group_N)
    return dict(Counter(zip(part_N.tolist(), known_N.tolist(), strict=True)))


def members(part_N: np.ndarray, identity_N: np.ndarray, *parts: str) -> set[str]:
    return set(identity_N[np.isin(part_N, parts)])
