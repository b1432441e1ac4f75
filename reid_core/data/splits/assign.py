"""Which image plays which part: open-set and closed-set splits (paper §3.4, stratified by default), by time (§7.2).

identity (N,), group (N,), date (N,) → part (N,). The open-set parts nest: availableSet = trainSet + thresholdSet,
trainSet = training + validating, and testSet is what is left of the labelled images. The gallery is `training`;
an identity is *known* when it has an image there, otherwise *new*.

Letters: N images, K identities of one group, P images of one identity.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from reid_core.data.splits.by_share import Animals, Rows, choose_new, split_as_paper, split_stratified
from reid_core.data.splits.by_time import CannotSplitError, split_by_cutoff, split_by_proportion
from reid_core.data.splits.encounters import QUERY_PARTS, keep_encounters_whole
from reid_core.data.splits.rule import SplitRule
from reid_core.errors import UserError

PARTS = ("training", *QUERY_PARTS, "query")


def assign_parts(
    identity_N: Sequence[str | None] | np.ndarray,
    group_N: Sequence[str] | np.ndarray,
    *,
    rule: SplitRule,
    date_N: Sequence[str | None] | np.ndarray | None = None,
) -> np.ndarray:
    """Give every image one part; equal input and seed give equal parts.

    Identities are distinguished within a group: the same name in two groups is two animals.

    Args:
        identity_N: Identity of each image, None for the queries of the data set.
        group_N: Species group of each image.
        rule: How they are divided.
        date_N: ISO date of each image, with or without a time, None or "" where it has none.

    Returns:
        One of `PARTS` per image, shape (N,), strings; "query" where the identity is None.

    Raises:
        UserError: If no group can be split by time.

    Example:
        >>> rule = SplitRule(strategy="stratified", seed=0)
        >>> assign_parts(["ada", None, "bo"], ["cow"] * 3, rule=rule).tolist()
        ['training', 'query', 'training']
    """
    groups = animals_by_group(identity_N, group_N)
    day_N = rule.days(date_N, group_N)
    if rule.strategy == "paper":
        given = [split_as_paper(join_groups(groups), rule.generator("paper"))]
    elif rule.is_by_time:
        given, _ = _split_by_time(groups, day_N, rule)
    else:
        given = _stratify(groups, rule)
    part_N = np.full(len(identity_N), "query", dtype=f"<U{max(map(len, PARTS))}")
    for parts in given:
        for part, rows in parts.items():
            part_N[rows] = part
    return keep_encounters_whole(part_N, identity_N, group_N, day_N) if rule.whole_encounters else part_N


def animals_by_group(identity_N: Iterable, group_N: Iterable) -> dict[str, Animals]:
    """Rows of each animal of each group; both sorted by name, so that the order of the rows does not choose any."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, (identity, group) in enumerate(zip(identity_N, group_N, strict=True)):
        if identity is not None:
            rows.setdefault((str(group), str(identity)), []).append(row)
    groups: dict[str, Animals] = {}
    for group, identity in sorted(rows):
        groups.setdefault(group, []).append(np.array(rows[group, identity]))
    return groups


def join_groups(groups: dict[str, Animals]) -> Animals:
    """The animals of all groups, in the order of the groups."""
    return [rows_P for animals in groups.values() for rows_P in animals]


def _stratify(groups: dict[str, Animals], rule: SplitRule) -> list[Rows]:
    return [split_stratified(animals, _generator_of(group, rule)) for group, animals in groups.items()]


def _generator_of(group: str, rule: SplitRule) -> np.random.Generator:
    """The same for every strategy, so that the new identities of `time_proportion` are those of `stratified`."""
    return rule.generator(f"stratified\0{group}")


def stratified_instead(
    identity_N: Iterable,
    group_N: Iterable,
    *,
    rule: SplitRule,
    date_N: Sequence[str | None] | np.ndarray | None = None,
) -> dict[str, str]:
    """Groups that `assign_parts` does not split by time as a rule asks, because of their dates, with the reason.

    Args:
        identity_N: As for `assign_parts`.
        group_N: As for `assign_parts`.
        rule: As for `assign_parts`; none of the groups if it is not by time.
        date_N: As for `assign_parts`.

    Raises:
        UserError: If these are all groups.
    """
    if not rule.is_by_time:
        return {}
    groups = animals_by_group(identity_N, group_N)
    return _split_by_time(groups, rule.days(date_N, [*group_N]), rule)[1]


def _split_by_time(groups: dict[str, Animals], day_N: np.ndarray, rule: SplitRule) -> tuple[list[Rows], dict[str, str]]:
    """Split each group by its dates, and as `stratified` those whose dates do not allow it, for the reasons given."""
    given, reasons = [], {}
    for group, animals in groups.items():
        try:
            given.append(_split_group_by_time(animals, day_N, rule, _generator_of(group, rule)))
        except CannotSplitError as error:
            reasons[group] = str(error)
    if reasons and not given:
        why = "; ".join(f"{group}: {reason}" for group, reason in reasons.items())
        raise UserError(f"data.split={rule.strategy}: no group can be split by time ({why}); set data.split=stratified")
    return given + _stratify({group: groups[group] for group in reasons}, rule), reasons


def _split_group_by_time(animals: Animals, day_N: np.ndarray, rule: SplitRule, rng: np.random.Generator) -> Rows:
    if rule.strategy == "time_cutoff":
        return split_by_cutoff(animals, day_N, rule.cutoff_date, rng)
    new = choose_new(np.array([len(rows_P) for rows_P in animals]), rng)
    return split_by_proportion(animals, day_N, new, rng)
