"""Splits of one group by capture date: by proportion of dates and by cut-off (Adam et al., WACV 2024; paper §7.2).

rows of each animal, day (N,) → rows of each part. An animal's queries are later than its gallery; its images of one day
stay together, and its undated ones stay in `training` if it is known.

Letters: N images, P images of one animal, D its days.
"""

from collections.abc import Iterator

import numpy as np

from reid_core.data.splits.by_share import Animals, Rows
from reid_core.data.splits.encounters import QUERY_PARTS, QUERY_SETS

DATE_SHARE = 0.1  # of a known animal's days, for each query part
QUERY_SHARE = 0.2  # of the dated images, from a cut-off that is chosen here
VALIDATING_SHARE = 0.1  # of the images, where a cut-off divides the group


class CannotSplitError(Exception):
    """Why a group cannot be split by time, in words."""


def split_by_proportion(
    animals: Animals, day_N: np.ndarray, new: dict[str, list[int]], rng: np.random.Generator
) -> Rows:
    """Let every known animal give its latest days away: training < validating < thresholdSet < testSet.

    Each query part gets 10 % of the animal's days, one at least; with 3 days `validating` gets none, and the later of 2
    days goes to one of the query sets, as many to each. The earliest day always stays in training.

    Args:
        animals: Rows of each animal.
        day_N: Day of each image, None where it has none.
        new: For each query set the animals (indices) that are new in it, with all of their images.
        rng: Chooses which of the query sets the animals with 2 days give to.

    Returns:
        Rows of each part.

    Raises:
        CannotSplitError: If no known animal has two days.
    """
    days = [_rows_by_day(rows_P, day_N) for rows_P in animals]
    _check_days({day for rows_of in days for day in rows_of})
    chosen = {k for members in new.values() for k in members}
    known = [days[k] for k in range(len(animals)) if k not in chosen]
    if max(map(len, known), default=0) < 2:
        raise CannotSplitError("no animal that stays known was photographed on two dates")
    parts: Rows = {part: [row for k in new.get(part, ()) for row in animals[k].tolist()] for part in QUERY_PARTS}
    for rows_of in known:
        later = _later_parts(len(rows_of))
        for part, rows in zip(reversed(later), reversed(rows_of.values()), strict=False):
            parts[part] += rows
    for part, rows in _deal([[*rows_of.values()][1] for rows_of in known if len(rows_of) == 2], rng):
        parts[part] += rows
    return _with_training(animals, parts)


def split_by_cutoff(animals: Animals, day_N: np.ndarray, cutoff: str | None, rng: np.random.Generator) -> Rows:
    """Make queries of what was photographed from a day on: of known animals, and of animals first seen then.

    Known encounters and new animals are dealt out to the two query sets. `validating` gets the latest day before the
    cut-off of animals with at least two such days, until it has 10 % of the group's images.

    Args:
        animals: Rows of each animal.
        day_N: Day of each image, None where it has none.
        cutoff: First day of the queries, YYYY-MM-DD; None: the day from which about 20 % of the dated images lie.
        rng: Deals out, and chooses the animals of `validating`.

    Returns:
        Rows of each part.

    Raises:
        CannotSplitError: If there is no day before the cut-off, or none from it on.
    """
    days = [_rows_by_day(rows_P, day_N) for rows_P in animals]
    cutoff = find_cutoff([day for rows_of in days for day, rows in rows_of.items() for _ in rows], cutoff)
    new = [k for k, rows_of in enumerate(days) if rows_of and min(rows_of) >= cutoff]
    known = [rows_of for k, rows_of in enumerate(days) if k not in set(new)]
    encounters = [rows for rows_of in known for day, rows in rows_of.items() if day >= cutoff]
    parts: Rows = {part: [] for part in QUERY_PARTS}
    for units in (encounters, [animals[k].tolist() for k in new]):
        for part, rows in _deal(units, rng):
            parts[part] += rows
    before = [[rows for day, rows in rows_of.items() if day < cutoff] for rows_of in known]
    parts["validating"] = _choose_validating(before, sum(map(len, animals)), rng)
    return _with_training(animals, parts)


def resplit_by_proportion(animals: Animals, day_N: np.ndarray, new: list[int], was_known: list[bool]) -> Rows:
    """Split a group's availableSet again, by the rules of `split_by_proportion`.

    The latest days of most animals are in testSet already. Of the days left, thresholdSet gets the latest ninth (that
    is a tenth of all), one at least, and `validating` as many before them; of 2 days `validating` gets none.

    Args:
        animals: Rows in availableSet of each animal that has any.
        day_N: Day of each image, None where it has none.
        new: The animals (indices) that are new in thresholdSet.
        was_known: Whether each animal is in the gallery of the split that is made anew.

    Returns:
        Rows of each part.

    Raises:
        CannotSplitError: If no animal that was known and stays so has two days left.
    """
    days = [_rows_by_day(rows_P, day_N) for rows_P in animals]
    _check_days({day for rows_of in days for day in rows_of})
    known = [k for k in range(len(animals)) if k not in set(new)]
    if max((len(days[k]) for k in known if was_known[k]), default=0) < 2:
        raise CannotSplitError("no animal that stays known was photographed on two dates before those of testSet")
    parts: Rows = {"validating": [], "thresholdSet": [row for k in new for row in animals[k].tolist()]}
    for k in known:
        for part, rows in zip(reversed(_later_parts_left(len(days[k]))), reversed(days[k].values()), strict=False):
            parts[part] += rows
    return _with_training(animals, parts)


def resplit_by_cutoff(animals: Animals, day_N: np.ndarray, num_images: int, rng: np.random.Generator) -> Rows:
    """Choose `validating` again, as `split_by_cutoff` does; what is from the cut-off on stays in thresholdSet.

    Args:
        animals: Rows in `training` and `validating` of each animal.
        day_N: Day of each image, None where it has none.
        num_images: Of the whole group.
        rng: Chooses the animals of `validating`.

    Returns:
        Rows of `training` and `validating`.
    """
    before = [[*_rows_by_day(rows_P, day_N).values()] for rows_P in animals]
    return _with_training(animals, {"validating": _choose_validating(before, num_images, rng)})


def find_cutoff(days: list[str], cutoff: str | None) -> str:
    """The first day of a group's queries: the given one, or that of `choose_cutoff`.

    Args:
        days: Day of each dated image of the group.
        cutoff: YYYY-MM-DD; None: chosen.

    Raises:
        CannotSplitError: If there is no day before the cut-off, or none from it on.
    """
    _check_days(set(days))
    cutoff = cutoff or choose_cutoff(days)
    if min(days) >= cutoff:
        raise CannotSplitError(f"no photograph is dated before data.cutoff_date={cutoff}")
    if max(days) < cutoff:
        raise CannotSplitError(f"no photograph is dated on or after data.cutoff_date={cutoff}")
    return cutoff


def choose_cutoff(days: list[str]) -> str:
    """The day, not the earliest, from which the share of images is nearest to 20 %.

    Args:
        days: Day of each dated image; at least two different ones.

    Example:
        >>> choose_cutoff(["2020-01-01"] * 5 + ["2020-03-01"] * 3 + ["2021-01-01"] * 2)
        '2021-01-01'
    """
    day_D, count_D = np.unique(np.array(days, dtype=str), return_counts=True)
    from_D = count_D[::-1].cumsum()[::-1]
    return str(day_D[1:][np.argmin(np.abs(from_D[1:] - QUERY_SHARE * len(days)))])


def _rows_by_day(rows_P: np.ndarray, day_N: np.ndarray) -> dict[str, list[int]]:
    """Rows of each day of one animal, in time order, without its undated images."""
    rows_of: dict[str, list[int]] = {}
    for row in sorted((row for row in rows_P.tolist() if day_N[row] is not None), key=lambda row: day_N[row]):
        rows_of.setdefault(day_N[row], []).append(row)
    return rows_of


def _check_days(days: set[str]) -> None:
    if not days:
        raise CannotSplitError("no photograph has a date")
    if len(days) == 1:
        raise CannotSplitError(f"all dated photographs are of one date, {min(days)}")


def _later_parts(num_days: int) -> list[str]:
    """Part of each of an animal's latest days, in time order; the days before them stay in training.

    Example:
        >>> _later_parts(3), _later_parts(4), len(_later_parts(20)), _later_parts(2)  # 2 days: see `_deal`
        (['thresholdSet', 'testSet'], ['validating', 'thresholdSet', 'testSet'], 6, [])
    """
    if num_days < 3:
        return []
    each = max(1, round(DATE_SHARE * num_days))
    return [part for part in (QUERY_SETS if num_days == 3 else QUERY_PARTS) for _ in range(each)]


def _later_parts_left(num_days: int) -> list[str]:
    """As `_later_parts` of the days of an animal that are not in testSet.

    Example:
        >>> _later_parts_left(1), _later_parts_left(2), _later_parts_left(3), len(_later_parts_left(18))
        ([], ['thresholdSet'], ['validating', 'thresholdSet'], 4)
    """
    each = max(1, round(DATE_SHARE / (1 - DATE_SHARE) * num_days))
    parts = ("validating", "thresholdSet")[-min(num_days - 1, 2) :] if num_days > 1 else ()
    return [part for part in parts for _ in range(each)]


def _deal(units: list[list[int]], rng: np.random.Generator) -> Iterator[tuple[str, list[int]]]:
    """Give every unit to one of the query sets; of neighbours in size each set gets one, so both get as many."""
    shuffled = [units[k] for k in rng.permutation(len(units))]
    pair: list[str] = []
    for unit in sorted(shuffled, key=len):
        pair = pair or rng.permutation(QUERY_SETS).tolist()
        yield pair.pop(), unit


def _choose_validating(before: list[list[list[int]]], num_images: int, rng: np.random.Generator) -> list[int]:
    """Rows of the latest day before the cut-off, of randomly chosen animals that have an earlier one.

    Args:
        before: Of each animal the rows of each of its days before the cut-off, in time order.
        num_images: Of the group, a tenth of which is wanted.
        rng: Chooses.
    """
    latest = [encounters[-1] for encounters in before if len(encounters) >= 2]
    taken: list[int] = []
    for k in rng.permutation(len(latest)):
        if len(taken) < VALIDATING_SHARE * num_images:
            taken += latest[k]
    return taken


def _with_training(animals: Animals, parts: Rows) -> Rows:
    taken = {row for rows in parts.values() for row in rows}
    return {"training": [row for rows_P in animals for row in rows_P.tolist() if row not in taken], **parts}
