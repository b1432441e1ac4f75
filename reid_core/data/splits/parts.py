"""Who plays which part, and whether an animal is known.

identity, group, part (N,) → rows of a part, whether a query's animal is known, one name per animal.
Letters: N images (rows of the cache), R some of them, Q queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reid_core.data.animals import name_animals


@dataclass(frozen=True)
class Parts:
    """Who plays which part: arrays over the rows of the image cache."""

    identity_N: np.ndarray  # None where it is unknown or locked
    group_N: np.ndarray
    part_N: np.ndarray
    sides_N6: np.ndarray | None = None  # photographed sides (`sides.parse_sides`)

    def rows(self, part: str) -> np.ndarray:
        """Rows of one part, ascending."""
        return np.flatnonzero(self.part_N == part)

    def known(self, query_Q: np.ndarray) -> np.ndarray:
        """Whether each query's true identity is in the gallery (`training`) of its group; shape (Q,), bool."""
        return is_known(self.part_N, self.identity_N, self.group_N)[query_Q]

    def animals(self, row_R: np.ndarray) -> np.ndarray:
        """One name per animal of some rows (`name_animals`); shape (R,)."""
        return name_animals(self.group_N[row_R], self.identity_N[row_R])


def is_known(
    part_N: np.ndarray, identity_N: Sequence[str | None] | np.ndarray, group_N: Sequence[str] | np.ndarray
) -> np.ndarray:
    """Whether each image's identity is in the gallery, i.e. has an image in `training`; shape (N,), False for queries.

    Example:
        >>> is_known(np.array(["training", "testSet", "testSet"]), ["ada", "ada", "bo"], ["cow"] * 3).tolist()
        [True, True, False]
    """
    animals = list(zip(group_N, identity_N, strict=True))
    gallery = {animal for animal, part in zip(animals, part_N, strict=True) if part == "training"}
    return np.array([animal in gallery for animal in animals], dtype=bool)
