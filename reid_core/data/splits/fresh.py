"""Fresh splits: availableSet divided anew, with testSet as it is, to confirm what one split has chosen (paper §3.4).

part, identity, group, date (N,), number r → part (N,). What testSet holds is locked: the identities of its images are
not used, only their groups and dates.

Letters: N images, P images of one animal.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from reid_core.data.splits.assign import check_strategy, make_generator, rows_by_animal
from reid_core.data.splits.by_share import choose_new_again, resplit_as_paper, resplit_stratified
from reid_core.data.splits.by_time import CannotSplitError, Rows, find_cutoff, resplit_by_cutoff, resplit_by_proportion
from reid_core.data.splits.encounters import keep_encounters_whole, read_days
from reid_core.errors import UserError

AVAILABLE = ("training", "validating", "thresholdSet")  # availableSet
LABELLED = (*AVAILABLE, "testSet")
logger = logging.getLogger(__name__)


def resplit(
    part_N: np.ndarray,
    identity_N: Sequence[str | None] | np.ndarray,
    group_N: Sequence[str] | np.ndarray,
    *,
    number: int,
    strategy: str,
    seed: int,
    date_N: Sequence[str | None] | np.ndarray | None = None,
    cutoff_date: str | None = None,
    whole_encounters: bool = False,
) -> np.ndarray:
    """Divide the images of availableSet anew by the rules of a strategy; every other image keeps its part.

    The rules are those of `assign.assign_parts`, for what is left without testSet: thresholdSet and `validating` are
    about as large as in the split that is made anew, and as many animals are new in thresholdSet. An animal of
    availableSet that is new now may have images in testSet, so testSet is to be scored by the first split only.

    How much is drawn anew depends on the strategy. `stratified` and `paper`: which animals are new, and which images
    the others give. `time_proportion`: which animals are new; a known one gives its latest days in every split.
    `time_cutoff`: `validating` alone, because all that is dated from the cut-off on are queries. Where thresholdSet
    stays as it was, a warning names the groups.

    Args:
        part_N: Parts that `assign.assign_parts` gave, and maybe others, which stay.
        identity_N: Identity of each image; None, or anything, where it is in testSet.
        group_N: Species group of each image.
        number: Of the fresh split, from 1 on: another number is another split.
        strategy: As `part_N` was made; so are the other arguments.
        seed: As above.
        date_N: As above.
        cutoff_date: As above.
        whole_encounters: As above.

    Returns:
        The parts, shape (N,), a new array; a function of the arguments alone.

    Raises:
        UserError: If the number is below 1, or the strategy is unknown.

    Example:
        >>> part_N = np.array(["training", "training", "training", "thresholdSet", "testSet"])
        >>> fresh_N = resplit(part_N, ["ada"] * 4 + [None], ["cow"] * 5, number=1, strategy="stratified", seed=0)
        >>> sorted(fresh_N.tolist()), fresh_N[4]
        (['testSet', 'thresholdSet', 'training', 'training', 'validating'], 'testSet')
    """
    check_strategy(strategy)
    if number < 1:
        raise UserError(f"fresh split {number}: fresh splits are numbered from 1")
    part_N, group_N = np.array(part_N, dtype=object), np.array(group_N, dtype=object)
    unlocked_N = np.array(identity_N, dtype=object)
    unlocked_N[~np.isin(part_N, AVAILABLE)] = None
    day_N = read_days(date_N if strategy.startswith("time") or whole_encounters else None, group_N)
    fresh_N = part_N.copy()
    rows = rows_by_animal(unlocked_N, group_N)
    if strategy == "paper":
        given = [resplit_as_paper(list(rows.values()), make_generator(seed, f"paper\0fresh {number}"))]
    else:
        groups: dict[str, list[np.ndarray]] = {}
        for (group, _), rows_P in rows.items():
            groups.setdefault(group, []).append(rows_P)
        given = [
            _resplit_group(
                animals,
                part_N,
                day_N,
                np.flatnonzero(np.isin(part_N, LABELLED) & (group_N == group)),
                strategy=strategy,
                cutoff=cutoff_date,
                name=group,
                begin=partial(make_generator, seed, f"stratified\0{group}\0fresh {number}"),
            )
            for group, animals in groups.items()
        ]
    for parts in given:
        for part, taken in parts.items():
            fresh_N[taken] = part
    if whole_encounters:
        fresh_N = keep_encounters_whole(fresh_N, unlocked_N, group_N, day_N)
    _warn_of_equal(part_N, fresh_N, group_N, f"data.split={strategy}, fresh split {number}")
    return fresh_N


def _resplit_group(
    animals: list[np.ndarray],
    part_N: np.ndarray,
    day_N: np.ndarray,
    labelled: np.ndarray,
    *,
    strategy: str,
    cutoff: str | None,
    name: str,
    begin: Callable[[], np.random.Generator],
) -> Rows:
    """Divide one group, by its dates if that was and is possible; `labelled` are all of its rows, testSet's too."""
    rng = begin()
    was_known = [bool((part_N[rows_P] == "training").any()) for rows_P in animals]
    num_new, num_images = was_known.count(False), len(labelled)
    try:
        if strategy == "time_cutoff":
            find_cutoff([day for day in day_N[labelled] if day is not None], cutoff)
            before = [rows_P[part_N[rows_P] != "thresholdSet"] for rows_P in animals]
            return resplit_by_cutoff(before, day_N, num_images, rng)
        if strategy == "time_proportion":
            new = choose_new_again(np.array([len(rows_P) for rows_P in animals]), num_new, num_images, rng)
            return resplit_by_proportion(animals, day_N, new, was_known)
    except CannotSplitError as error:
        logger.warning("group %s: %s; split as data.split=stratified instead of %s", name, error, strategy)
    return resplit_stratified(animals, num_new, num_images, begin())


def _warn_of_equal(before_N: np.ndarray, after_N: np.ndarray, group_N: np.ndarray, what: str) -> None:
    """Name the groups whose thresholdSet holds the images that it held before."""
    changed = set(group_N[(before_N == "thresholdSet") != (after_N == "thresholdSet")])
    equal = sorted(map(str, set(group_N[before_N == "thresholdSet"]) - changed))
    if equal:
        logger.warning("%s: thresholdSet holds the same images as in the first split: %s", what, ", ".join(equal))
