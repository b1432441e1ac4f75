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
    "frontal": "front",
    "head": "front",
    "rear": "back",
    **_ABBREVIATIONS,
}
# Words that say that no side is known, as an empty value does.
_NO_SIDE = frozenset(["unknown", "none", "na", "n/a", "nan", "null", "undefined", "unspecified", "?", "-"])
_BESIDE = ("side", "sided", "flank", "view", "profile", "lateral", "and")  # words that add nothing to a side's
# Several of these words may be written as one, such as "topleft"; in "pup" and "bright" other letters are left over.
_PIECE = re.compile("|".join(sorted({*SIDES, *_SYNONYMS, *_BESIDE} - {*_ABBREVIATIONS}, key=len, reverse=True)))
_COMPOUND = re.compile(f"(?:{_PIECE.pattern})+")
_LETTERS = re.compile(r"[^\W\d_]+")


def name_sides(orientation: str | None) -> list[str]:
    """The sides that an orientation word names, in the order of `SIDES`.

    None if it says anything besides sides: "not left" is none, and a wrong side would exclude true matches.

    Example:
        >>> name_sides("Top-Left"), name_sides("R"), name_sides("left side"), name_sides("left?"), name_sides("bright")
        (['left', 'top'], ['right'], ['left'], [], [])
    """
    words = _LETTERS.findall((orientation or "").casefold())
    if "?" in (orientation or "") or not all(word in _ABBREVIATIONS or _COMPOUND.fullmatch(word) for word in words):
        return []
    pieces = {piece for word in words for piece in ([word] if word in _ABBREVIATIONS else _PIECE.findall(word))}
    named = {_SYNONYMS.get(piece, piece) for piece in pieces}
    return [side for side in SIDES if side in named]


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
    """What is read of words other than the sides' own names, and words of which nothing is read.

    Args:
        where: The table's name.
        orientation_N: As they stand; None or "" where one is empty.
        line_N: Line of each.
    """
    words = Counter(word for word in orientation_N if word)
    sides_of = {word: name_sides(word) for word in words}
    short = [word for word, sides in sides_of.items() if sides and _may_surprise(word)]
    unread = {word for word, sides in sides_of.items() if not sides and word.casefold() not in _NO_SIDE}
    more = {word for word in unread if any(side in word.casefold() for side in SIDES)}
    findings = []
    if short:
        count = sum(words[word] for word in short)
        read = [f"{word!r} as {' '.join(sides_of[word])}" for word in short]
        findings.append(make_finding(where, f"{count} value(s) of orientation are abbreviations, read", read, count))
    kinds = {"name no side": unread - more, "say more than sides; no side is read": more}
    for what, kind in kinds.items():
        rows = [row for row, word in enumerate(orientation_N) if word in kind]
        if rows:
            counts = count_words(orientation_N[row] for row in rows)
            text = f"{len(rows)} of {words.total()} values of orientation {what} ({counts})"
            findings.append(make_finding(where, text, show_lines(line_N, orientation_N, rows), len(rows)))
    return findings


def _may_surprise(word: str) -> bool:
    """Whether a word that names sides is short for them, or a word of its own in English."""
    return bool({*_LETTERS.findall(word.casefold())} & {*_ABBREVIATIONS, "upright", "downright"})


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
