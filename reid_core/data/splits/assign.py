"""Which image plays which part: open-set and closed-set splits (paper §3.4, stratified by default), by time (§7.2).

identity (N,), group (N,), date (N,) → part (N,). The open-set parts nest: availableSet = trainSet + thresholdSet,
trainSet = training + validating, and testSet is what is left of the labelled images. The gallery is `training`;
an identity is *known* when it has an image there, otherwise *new*.

Letters: N images, K identities of one group, P images of one identity.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from reid_core.data.splits.by_share import SHARE, choose_new, split_as_paper, split_stratified
from reid_core.data.splits.by_time import CannotSplitError, check_cutoff, split_by_cutoff, split_by_proportion
from reid_core.data.splits.encounters import KEPT_IN_TRAINING, QUERY_PARTS, QUERY_SETS, keep_encounters_whole, read_days
from reid_core.data.splits.parts import is_known
from reid_core.errors import UserError

STRATEGIES = ("stratified", "paper", "time_proportion", "time_cutoff")
PARTS = ("training", *QUERY_PARTS, "query")
logger = logging.getLogger(__name__)


def assign_parts(
    identity_N: Sequence[str | None] | np.ndarray,
    group_N: Sequence[str] | np.ndarray,
    *,
    strategy: str,
    seed: int,
    date_N: Sequence[str | None] | np.ndarray | None = None,
    cutoff_date: str | None = None,
    whole_encounters: bool = False,
) -> np.ndarray:
    """Give every image one part.

    Identities are told apart within a group: the same name in two groups is two animals. For all strategies an
    identity of `validating` is in `training`, and equal input and seed give equal parts. For all but `paper` a group's
    parts depend on that group and the seed alone, and the new identities of the two query sets are disjoint with none
    of their images in training or validating.

    `stratified`: an identity with a known query, or with an image in validating, keeps at least 2 training images.
    `paper` splits all groups together and promises nothing per group; an identity that is new in `thresholdSet` may
    have a query in `testSet` too (new there as well, since it is not in `training`).
    `time_proportion`: the new identities of `stratified`; of every other one the latest days are queries.
    `time_cutoff`: what was photographed from a day on are queries.
    By time, no day of an identity is in two parts, and the dated training images of an identity are older than its
    queries. A group that its dates cannot split is split as by `stratified`, with a warning that says why.

    Args:
        identity_N: Identity of each image, None for the queries of the data set.
        group_N: Species group of each image.
        strategy: One of `STRATEGIES`.
        seed: Any integer.
        date_N: ISO date of each image, with or without a time, None or "" where it has none.
        cutoff_date: Of time_cutoff: the first day of the queries, YYYY-MM-DD; None: chosen for each group.
        whole_encounters: Afterwards make images of one identity and day share a part, by moving some
            (`keep_encounters_whole`); what a strategy promises about numbers of images then no longer holds.

    Returns:
        One of `PARTS` per image, shape (N,), strings; "query" where the identity is None.

    Raises:
        UserError: If the strategy is unknown, the cut-off is no date, or no group can be split by time.

    Example:
        >>> assign_parts(["ada", None, "bo"], ["cow"] * 3, strategy="stratified", seed=0).tolist()
        ['training', 'query', 'training']
    """
    check_strategy(strategy)
    rows = rows_by_animal(identity_N, group_N)
    by_time = strategy.startswith("time")
    day_N = read_days(date_N if by_time or whole_encounters else None, group_N)
    if strategy == "paper":
        given = [split_as_paper(list(rows.values()), make_generator(seed, "paper"))]
    else:
        groups: dict[str, list[np.ndarray]] = {}
        for (group, _), rows_P in rows.items():
            groups.setdefault(group, []).append(rows_P)
        given = _split_by_time(groups, strategy, seed, day_N, cutoff_date) if by_time else _stratify(groups, seed)
    part_N = np.full(len(identity_N), "query", dtype=f"<U{max(map(len, PARTS))}")
    for parts in given:
        for part, taken in parts.items():
            part_N[taken] = part
    return keep_encounters_whole(part_N, identity_N, group_N, day_N) if whole_encounters else part_N


def check_strategy(strategy: str) -> None:
    """Refuse what is none of `STRATEGIES`.

    Raises:
        UserError: If it is none.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"data.split={strategy!r}: expected one of {', '.join(STRATEGIES)}")


def rows_by_animal(identity_N: Iterable, group_N: Iterable) -> dict[tuple[str, str], np.ndarray]:
    """Rows of each (group, identity), sorted by name so that the order of the rows does not choose identities."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, (identity, group) in enumerate(zip(identity_N, group_N, strict=True)):
        if identity is not None:
            rows.setdefault((str(group), str(identity)), []).append(row)
    return {animal: np.array(rows[animal]) for animal in sorted(rows)}


def make_generator(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one purpose: other names, other numbers."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _stratify(groups: dict[str, list[np.ndarray]], seed: int) -> list[dict[str, list[int]]]:
    return [
        split_stratified(animals, make_generator(seed, f"stratified\0{group}")) for group, animals in groups.items()
    ]


def _split_by_time(
    groups: dict[str, list[np.ndarray]], strategy: str, seed: int, day_N: np.ndarray, cutoff: str | None
) -> list[dict[str, list[int]]]:
    """Split each group by its dates, and as `stratified` those whose dates do not allow it."""
    given, reasons = [], {}
    if strategy == "time_cutoff":
        check_cutoff(cutoff)
    for group, animals in groups.items():
        rng = make_generator(seed, f"stratified\0{group}")  # so the new identities are those of `stratified`
        try:
            if strategy == "time_cutoff":
                given.append(split_by_cutoff(animals, day_N, cutoff, rng))
            else:
                new = choose_new(np.array([len(rows_P) for rows_P in animals]), rng)
                given.append(split_by_proportion(animals, day_N, new, rng))
        except CannotSplitError as error:
            reasons[group] = str(error)
    if reasons and not given:
        why = "; ".join(f"{group}: {reason}" for group, reason in reasons.items())
        raise UserError(f"data.split={strategy}: no group can be split by time ({why}); set data.split=stratified")
    for group, reason in reasons.items():
        logger.warning("group %s: %s; split as data.split=stratified instead of %s", group, reason, strategy)
    return given + _stratify({group: groups[group] for group in reasons}, seed)


def describe_parts(
    part_N: np.ndarray, identity_N: Sequence[str | None] | np.ndarray, group_N: Sequence[str] | np.ndarray
) -> str:
    """Printable table of images/identities per group and part, and below it what each group cannot give.

    Where the identities of testSet are locked (None), its images are counted in one column. Parts that are none of
    `PARTS`, such as that of unreadable photographs, have a column each.

    Example:
        >>> print(describe_parts(np.array(["training"] * 2 + ["query"]), ["ada", "ada", None], ["cow"] * 3))
        images/identities  training  validating  thresholdSet known  thresholdSet new  testSet known  testSet new  query
        cow                     2/1           0                   0                 0              0            0      1
        cow: thresholdSet has no known query: BAKS is undefined
        ...
    """
    locked = any(part == "testSet" and name is None for part, name in zip(part_N, identity_N, strict=True))
    divided = QUERY_SETS[:1] if locked else QUERY_SETS  # into known and new
    names = [*PARTS[:2], *(f"{part} {kind}" for part in divided for kind in ("known", "new")), "query"]
    names += [*(["testSet"] if locked else []), *sorted({str(part) for part in part_N} - set(PARTS))]
    cells: dict[str, dict[str, list]] = {str(group): {name: [] for name in names} for group in sorted(set(group_N))}
    known_N = is_known(part_N, identity_N, group_N)
    for part, known, identity, group in zip(part_N, known_N, identity_N, group_N, strict=True):
        column = f"{part} {'known' if known else 'new'}" if part in divided else part
        cells[str(group)][column].append(identity)
    lines = [["images/identities", *names]]
    lines += [[group, *map(_count, columns.values())] for group, columns in cells.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.rjust, [line[0].ljust(widths[0]), *line[1:]], widths)) for line in lines]
    return "\n".join(table + [f"{group}: {note}" for group in cells for note in _shortcomings(cells[group])])


def _count(members: list[str | None]) -> str:
    """Images and identities, of those whose identities may be seen."""
    return str(len(members)) if None in members or not members else f"{len(members)}/{len(set(members))}"


def _shortcomings(columns: dict[str, list]) -> list[str]:
    """What a group lacks, in words, from the identity of each image in each column of the table."""
    if not columns["training"]:
        return ["no training images: its queries cannot be named"]
    num_images = sum(len(members) for name, members in columns.items() if name.split()[0] in PARTS[:-1])
    notes = []
    for part in (part for part in QUERY_SETS if f"{part} known" in columns):
        share = len(columns[f"{part} known"]) / num_images
        num_new = len(set(columns[f"{part} new"]))
        if not share:
            notes.append(f"{part} has no known query: BAKS is undefined")
        elif share < SHARE / 2:
            notes.append(f"{part} has known queries for {share:.1%} of the images only ({SHARE:.0%} wanted)")
        if not num_new:
            notes.append(f"{part} has no new identity: BAUS is undefined")
        elif num_new < 3:
            notes.append(f"{part} has only {num_new} new {'identity' if num_new == 1 else 'identities'}")
    if not columns["validating"]:
        notes.append("validating is empty")
    if max(Counter(columns["training"]).values()) < KEPT_IN_TRAINING:
        notes.append("every training identity has a single image: no positive pair")
    return notes
