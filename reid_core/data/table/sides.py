"""Which sides of an animal a photograph shows, from the metadata's orientation (paper §7.2).

orientation (N,) → sides (N, 6), multi-hot; two of them → which pairs can be compared (Q, G).
"""

import re
from collections.abc import Sequence

import numpy as np

SIDES = ("left", "right", "top", "bottom", "front", "back")
_SYNONYMS = {
    "up": "top",
    "dorsal": "top",
    "down": "bottom",
    "ventral": "bottom",
    "face": "front",
    "head": "front",
    "rear": "back",
}
# A side may be part of a longer word; a synonym stands alone or beside a side, because "up" is also in "pup".
_PIECES = re.compile(f"({'|'.join(SIDES)})|[^a-z]+")


def parse_sides(orientation_N: Sequence[str | None] | np.ndarray) -> np.ndarray:
    """Read the sides that each orientation word names.

    Args:
        orientation_N: Words such as "left", "topright" or "Top-Left"; None, "" and words that name no side are allowed.

    Returns:
        1 where the word names the side, in the order of `SIDES`; shape (N, 6), float32, all 0 where it names none.

    Example:
        >>> parse_sides(["topleft", "left", "down", "unknown", None]).astype(int).tolist()
        [[1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    """
    sides_N6 = np.zeros((len(orientation_N), len(SIDES)), dtype=np.float32)
    for row, orientation in enumerate(orientation_N):
        for piece in _PIECES.split((orientation or "").lower()):
            side = _SYNONYMS.get(piece, piece)
            if side in SIDES:
                sides_N6[row, SIDES.index(side)] = 1
    return sides_N6


def compatible(sides_Q6: np.ndarray, sides_G6: np.ndarray) -> np.ndarray:
    """Whether a query and a gallery image can show the same flank: they share a side, or one of them names none.

    Args:
        sides_Q6: Sides of the queries, multi-hot; shape (Q, 6).
        sides_G6: Sides of the gallery images, multi-hot; shape (G, 6).

    Returns:
        Shape (Q, G), bool.

    Example:
        >>> compatible(parse_sides(["left", "unknown"]), parse_sides(["topleft", "right", "left"])).tolist()
        [[True, False, True], [True, True, True]]
    """
    named_Q, named_G = sides_Q6.sum(axis=1) > 0, sides_G6.sum(axis=1) > 0
    return (sides_Q6 @ sides_G6.T > 0) | ~named_Q[:, None] | ~named_G
