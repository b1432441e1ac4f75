"""Encounters: the photographs of one animal on one date. Split apart, they let the scene answer for the animal.

part (N,), identity (N,), group (N,), date (N,) → part (N,) in which no encounter straddles (paper §7.2; Adam et al.,
SeaTurtleID2022, WACV 2024). A day is a date without its time, `YYYY-MM-DD`, so days sort as text.

Letters: N images, P images of one encounter.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from reid_core.data.table.dates import day_of

QUERY_PARTS = ("validating", "thresholdSet", "testSet")  # compared with the gallery, `training`
QUERY_SETS = QUERY_PARTS[1:]
KEPT_IN_TRAINING = 2  # a triplet needs an anchor and a positive


def read_days(date_N: Sequence[str | None] | np.ndarray | None, group_N: Sequence[str] | np.ndarray) -> np.ndarray:
    """Day of each image.

    Args:
        date_N: Dates as in metadata.csv, None or "" where there is none; None where no image has one.
        group_N: Species group of each image.

    Returns:
        `YYYY-MM-DD` or None per image, shape (N,), object; None where a date is none that `dates.parse_date` reads,
        which `dates.read_dates` reports.
    """
    dates = [None] * len(group_N) if date_N is None else list(date_N)
    return np.array([day_of(moment) for moment in dates], dtype=object)


def keep_encounters_whole(
    part_N: np.ndarray,
    identity_N: Sequence[str | None] | np.ndarray,
    group_N: Sequence[str] | np.ndarray,
    date_N: Sequence[str | None] | np.ndarray | None,
) -> np.ndarray:
    """Move images between parts until no (group, identity, day) has images in two of training and the query parts.

    A straddling encounter moves to the query part that holds most of it (in a tie, to the one with the fewest images
    of the group so far) if the animal keeps 2 images in `training`, or 1 where it has only one outside the encounter;
    else all of it moves to `training`. An animal's later encounters move first, so its gallery tends to be the older.
    Known animals stay known and new ones stay new. Undated images are encounters of their own and stay.

    Args:
        part_N: Part of each image; other parts than training and the query parts stay as they are.
        identity_N: Identity of each image, None where it is unknown.
        group_N: Species group of each image.
        date_N: ISO dates, None where there is none. In a group without any, nothing moves.

    Returns:
        The parts, shape (N,), a new array.

    Example:
        >>> part_N = np.array(["training", "training", "training", "testSet"])
        >>> keep_encounters_whole(part_N, ["ada"] * 4, ["cow"] * 4, ["2020-01-01"] * 2 + ["2020-05-01"] * 2).tolist()
        ['training', 'training', 'testSet', 'testSet']
    """
    whole_N = np.array(part_N)
    images, encounters = _find_encounters(whole_N, identity_N, group_N, read_days(date_N, group_N))
    size = Counter(zip(map(str, group_N), whole_N.tolist(), strict=True))
    for group, identity, day in sorted(encounters, reverse=True):
        rows_P, animal = encounters[group, identity, day], images[group, identity]
        counts = Counter(whole_N[rows_P].tolist())
        if len(counts) > 1:
            in_training = int(np.sum(whole_N[animal] == "training")) - counts["training"]
            part = _choose_part(counts, in_training, len(animal) - len(rows_P), {p: size[group, p] for p in counts})
            size.update({(group, part): len(rows_P)})
            size.subtract({(group, left): count for left, count in counts.items()})
            whole_N[rows_P] = part
    return whole_N


def _find_encounters(
    part_N: np.ndarray, identity_N: Iterable, group_N: Iterable, day_N: np.ndarray
) -> tuple[dict[tuple[str, str], list[int]], dict[tuple[str, str, str], list[int]]]:
    """Rows of each (group, identity) and of each (group, identity, day), of training and the query parts."""
    images: dict[tuple[str, str], list[int]] = {}
    encounters: dict[tuple[str, str, str], list[int]] = {}
    for row, (part, identity, group, day) in enumerate(zip(part_N, identity_N, group_N, day_N, strict=True)):
        if identity is not None and part in ("training", *QUERY_PARTS):
            animal = (str(group), str(identity))
            images.setdefault(animal, []).append(row)
            if day is not None:
                encounters.setdefault((*animal, day), []).append(row)
    return images, encounters


def _choose_part(counts: Counter[str], in_training: int, num_outside: int, size: dict[str, int]) -> str:
    """Where a straddling encounter goes.

    Args:
        counts: Images of the encounter in each part.
        in_training: Images of the animal in training, outside the encounter.
        num_outside: Images of the animal outside the encounter.
        size: Images of the group in each part.
    """
    # An encounter of query parts alone takes nothing from training; moved there it would make a new animal known.
    if counts["training"] and in_training < max(1, min(KEPT_IN_TRAINING, num_outside)):
        return "training"
    there = [part for part in QUERY_PARTS if counts[part]]
    return max(there, key=lambda part: (counts[part], -size[part]))
