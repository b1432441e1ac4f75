"""Encounters: the photographs of one animal on one date. Split apart, they let the scene answer for the animal.

part (N,), identity (N,), group (N,), date (N,) → part (N,) in which no encounter straddles (paper §7.2; Adam et al.,
SeaTurtleID2022, WACV 2024). A day is a date without its time, `YYYY-MM-DD`, so days sort as text.

Letters: N images, P images of one encounter.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date

import numpy as np

QUERY_PARTS = ("validating", "thresholdSet", "testSet")  # compared with the gallery, `training`
QUERY_SETS = QUERY_PARTS[1:]
KEPT_IN_TRAINING = 2  # a triplet needs an anchor and a positive
_ISO = re.compile(r"(\d{4}-\d{2}-\d{2})([T ].*)?")
logger = logging.getLogger(__name__)


def day_of(moment: str | None) -> str | None:
    """The day of an ISO date with or without a time; None where it is empty or no ISO date.

    Example:
        >>> day_of("2021-07-05"), day_of("2021-07-05T08:30:00"), day_of("5.7.2021"), day_of("2021-02-30"), day_of(None)
        ('2021-07-05', '2021-07-05', None, None, None)
    """
    match = _ISO.fullmatch((moment or "").strip())
    try:
        return date.fromisoformat(match[1]).isoformat() if match else None
    except ValueError:
        return None


def read_days(date_N: Sequence[str | None] | np.ndarray | None, group_N: Sequence[str] | np.ndarray) -> np.ndarray:
    """Day of each image, with one warning per group for dates that are not ISO.

    Args:
        date_N: Dates as in metadata.csv, None or "" where there is none; None where no image has one.
        group_N: Species group of each image.

    Returns:
        `YYYY-MM-DD` or None per image, shape (N,), object.
    """
    dates = [None] * len(group_N) if date_N is None else list(date_N)
    days = [day_of(moment) for moment in dates]
    wrong: dict[str, list[str]] = {}
    for moment, day, group in zip(dates, days, group_N, strict=True):
        if moment and day is None:
            wrong.setdefault(str(group), []).append(moment)
    for group, moments in sorted(wrong.items()):
        logger.warning("group %s: %d date(s) are not YYYY-MM-DD, taken as none: %r", group, len(moments), moments[0])
    return np.array(days, dtype=object)


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
        date_N: ISO dates, None where there is none. A group without any is named in a warning.

    Returns:
        The parts, shape (N,), a new array.

    Example:
        >>> part_N = np.array(["training", "training", "training", "testSet"])
        >>> keep_encounters_whole(part_N, ["ada"] * 4, ["cow"] * 4, ["2020-01-01"] * 2 + ["2020-05-01"] * 2).tolist()
        ['training', 'training', 'testSet', 'testSet']
    """
    whole_N = np.array(part_N)
    images, encounters = _find_encounters(whole_N, identity_N, group_N, read_days(date_N, group_N))
    dated = {group for group, _, _ in encounters}
    for group in sorted({group for group, _ in images} - dated):
        logger.warning("group %s: no photograph has a date, so data.whole_encounters does nothing there", group)
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
