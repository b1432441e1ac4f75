"""Which sides of an animal a photograph shows, from the metadata's orientation (paper §7.2).

orientation (N,) → sides (N, 6), multi-hot; two of them → which pairs can be compared (Q, G).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from reid_core.data.table.findings import SHOWN, Finding, make_finding, show_lines

SIDES = ("left", "right", "top", "bottom", "front", "back")
_ABBREVIATIONS = {"l": "left", "r": "right", "lf": "left", "rf": "right"}  # f: flank, or face: the side is the same
_SYNONYMS = {
    "up": "top",
    "dorsal": "top",
    "down": "bottom",
    "ventral": "bottom",
    "face": "front",
    "head": "front",
    "rear": "back",
    **_ABBREVIATIONS,
}
# Words that say that no side is known, as an empty value does.
_NO_SIDE = frozenset(["unknown", "none", "na", "n/a", "nan", "null", "undefined", "unspecified", "?", "-"])
# A side may be part of a longer word; a synonym stands alone or beside a side, because "up" is also in "pup".
_PIECES = re.compile(f"({'|'.join(SIDES)})|[^a-z]+")


def name_sides(orientation: str | None) -> list[str]:
    """The sides that an orientation word names, in the order of `SIDES`.

    Example:
        >>> name_sides("Top-Left"), name_sides("R"), name_sides("unknown"), name_sides("pup")
        (['left', 'top'], ['right'], [], [])
    """
    pieces = {_SYNONYMS.get(piece, piece) for piece in _PIECES.split((orientation or "").lower())}
    return [side for side in SIDES if side in pieces]


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
        sides_N6[row, [SIDES.index(side) for side in name_sides(orientation)]] = 1
    return sides_N6


def find_unread(where: str, orientation_N: Sequence[str | None], line_N: Sequence[int]) -> list[Finding]:
    """What is read of words other than the sides' own names: abbreviations, and words that name no side.

    Args:
        where: The table's name.
        orientation_N: As they stand; None or "" where one is empty.
        line_N: Line of each.
    """
    words = Counter(word for word in orientation_N if word)
    short = [word for word in words if name_sides(word) and set(re.findall("[a-z]+", word.lower())) & {*_ABBREVIATIONS}]
    unread = [word for word in words if not name_sides(word) and word.casefold() not in _NO_SIDE]
    findings = []
    if short:
        count = sum(words[word] for word in short)
        read = [f"{word!r} as {' '.join(name_sides(word))}" for word in short]
        findings.append(make_finding(where, f"{count} value(s) of orientation are abbreviations, read", read, count))
    if unread:
        rows = [row for row, word in enumerate(orientation_N) if word in set(unread)]
        counts = count_words(orientation_N[row] for row in rows)
        what = f"{len(rows)} of {words.total()} values of orientation name no side ({counts})"
        findings.append(make_finding(where, what, show_lines(line_N, orientation_N, rows), len(rows)))
    return findings


def count_words(orientation_N: Iterable[str | None]) -> str:
    """The most frequent values with their numbers, such as "'M' 48, 'x' 3"; "" if all are empty."""
    counts = Counter(word for word in orientation_N if word).most_common()
    shown = [f"{word!r:.40} {count}" for word, count in counts[:SHOWN]]
    return ", ".join(shown + ["…"] * (len(counts) > SHOWN))


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
