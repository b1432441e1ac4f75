"""Fresh splits: availableSet divided anew, with testSet as it is, to confirm what one split has chosen (paper §3.4).

parts, date (N,), number → parts. What testSet holds is locked: the identities of its images are not used, only their
groups and dates.

Letters: N images, P images of one animal.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reid_core.data.splits.assign import animals_by_group, join_groups
from reid_core.data.splits.by_share import Animals, Rows, choose_new_again, resplit_as_paper, resplit_stratified
from reid_core.data.splits.by_time import CannotSplitError, find_cutoff, resplit_by_cutoff, resplit_by_proportion
from reid_core.data.splits.encounters import keep_encounters_whole
from reid_core.data.splits.parts import Parts
from reid_core.data.splits.rule import SplitRule
from reid_core.errors import UserError

AVAILABLE = ("training", "validating", "thresholdSet")  # availableSet
LABELLED = (*AVAILABLE, "testSet")
logger = logging.getLogger(__name__)


def resplit(
    parts: Parts, *, number: int, rule: SplitRule, date_N: Sequence[str | None] | np.ndarray | None = None
) -> Parts:
    """Divide the images of availableSet anew by a rule; every other image keeps its part.

    The rules are those of `assign.assign_parts`, for what is left without testSet: thresholdSet and `validating` are
    about as large as in the split that is made anew, and as many animals are new in thresholdSet. An animal of
    availableSet that is new now may have images in testSet, so testSet is to be scored by the first split only.

    How much is drawn anew depends on the strategy. `stratified` and `paper`: which animals are new, and which images
    the others give. `time_proportion`: which animals are new; a known one gives its latest days in every split.
    `time_cutoff`: `validating` alone, because all that is dated from the cut-off on are queries. Where thresholdSet
    stays as it was, a warning names the groups.

    Args:
        parts: Those that `assign.assign_parts` gave, and maybe others, which stay. The identities of testSet may be
            anything.
        number: Of the fresh split, from 1 on: another number is another split.
        rule: By which `parts` was made.
        date_N: As `parts` was made.

    Returns:
        The same images with their new parts; a function of the arguments alone.

    Raises:
        UserError: If the number is below 1.

    Example:
        >>> split = ["training", "training", "training", "thresholdSet", "testSet"]
        >>> parts = Parts(*map(np.array, (["ada"] * 4 + [None], ["cow"] * 5, split)))
        >>> fresh_N = resplit(parts, number=1, rule=SplitRule(strategy="stratified", seed=0)).part_N
        >>> sorted(fresh_N.tolist()), fresh_N[4]
        (['testSet', 'thresholdSet', 'training', 'training', 'validating'], 'testSet')
    """
    if number < 1:
        raise UserError(f"fresh split {number}: fresh splits are numbered from 1")
    before = _lock(parts)
    day_N = rule.days(date_N, before.group_N)
    fresh_N = before.part_N.copy()
    for given in _resplit_groups(before, day_N, rule, number):
        for part, rows in given.items():
            fresh_N[rows] = part
    if rule.whole_encounters:
        fresh_N = keep_encounters_whole(fresh_N, before.identity_N, before.group_N, day_N)
    _warn_of_equal(before, fresh_N, f"data.split={rule.strategy}, fresh split {number}")
    return replace(parts, part_N=fresh_N)


def _lock(parts: Parts) -> Parts:
    """The same without any identity outside availableSet."""
    locked_N = np.array(parts.identity_N, dtype=object)
    locked_N[~np.isin(np.array(parts.part_N, dtype=object), AVAILABLE)] = None
    return Parts(locked_N, np.array(parts.group_N, dtype=object), np.array(parts.part_N, dtype=object))


def _resplit_groups(before: Parts, day_N: np.ndarray, rule: SplitRule, number: int) -> list[Rows]:
    groups = animals_by_group(before.identity_N, before.group_N)
    if rule.strategy == "paper":
        return [resplit_as_paper(join_groups(groups), rule.generator(f"paper\0fresh {number}"))]
    return [_resplit_group(group, animals, before, day_N, rule, number) for group, animals in groups.items()]


def _resplit_group(
    group: str, animals: Animals, before: Parts, day_N: np.ndarray, rule: SplitRule, number: int
) -> Rows:
    """Divide one group, by its dates if that was and is possible."""
    labelled = np.flatnonzero(np.isin(before.part_N, LABELLED) & (before.group_N == group))  # testSet's rows too
    was_known = [bool((before.part_N[rows_P] == "training").any()) for rows_P in animals]
    num_new, num_images = was_known.count(False), len(labelled)
    name = f"stratified\0{group}\0fresh {number}"
    rng = rule.generator(name)
    try:
        if rule.strategy == "time_cutoff":
            find_cutoff([day for day in day_N[labelled] if day is not None], rule.cutoff_date)
            earlier = [rows_P[before.part_N[rows_P] != "thresholdSet"] for rows_P in animals]
            return resplit_by_cutoff(earlier, day_N, num_images, rng)
        if rule.strategy == "time_proportion":
            new = choose_new_again(np.array([len(rows_P) for rows_P in animals]), num_new, num_images, rng)
            return resplit_by_proportion(animals, day_N, new, was_known)
    except CannotSplitError as error:
        logger.warning("group %s: %s; split as data.split=stratified instead of %s", group, error, rule.strategy)
    return resplit_stratified(animals, num_new, num_images, rule.generator(name))


def _warn_of_equal(before: Parts, after_N: np.ndarray, what: str) -> None:
    """Name the groups whose thresholdSet holds the images that it held before."""
    held_N = before.part_N == "thresholdSet"
    changed = set(before.group_N[held_N != (after_N == "thresholdSet")])
    equal = sorted(map(str, set(before.group_N[held_N]) - changed))
    if equal:
        logger.warning("%s: thresholdSet holds the same images as in the first split: %s", what, ", ".join(equal))
