"""Which image plays which part: open-set and closed-set splits (paper §3.4, stratified by default), by time (§7.2).

identity (N,), group (N,), date (N,) → part (N,). The open-set parts nest: availableSet = trainSet + thresholdSet,
trainSet = training + validating, and testSet is what is left of the labelled images. The gallery is `training`;
an identity is *known* when it has an image there, otherwise *new*.

Letters: N images, K identities of one group, P images of one identity.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from reid_core.config import UserError
from reid_core.encounters import KEPT_IN_TRAINING, QUERY_PARTS, keep_encounters_whole, read_days
from reid_core.time_splits import QUERY_SETS, CannotSplitError, check_cutoff, split_by_cutoff, split_by_proportion

STRATEGIES = ("stratified", "paper", "time_proportion", "time_cutoff")
PARTS = ("training", *QUERY_PARTS, "query")
SHARE = 0.1  # of the images, for each part that is not training
NEW_SHARE = 0.15  # of the identities, over both query sets
LARGEST_NEW_SHARE = 0.05  # of the group's images in one new identity; a bigger one is worth more in training
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
    if strategy not in STRATEGIES:
        raise UserError(f"data.split={strategy!r}: expected one of {', '.join(STRATEGIES)}")
    rows = _rows_by_animal(identity_N, group_N)
    by_time = strategy.startswith("time")
    day_N = read_days(date_N if by_time or whole_encounters else None, group_N)
    if strategy == "paper":
        given = [_split_as_paper(list(rows.values()), _generator(seed, "paper"))]
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


def is_known(
    part_N: np.ndarray, identity_N: Sequence[str | None] | np.ndarray, group_N: Sequence[str] | np.ndarray
) -> np.ndarray:
    """Whether each image's identity is in the gallery, i.e. has an image in `training`; shape (N,), False for queries.

    Example:
        >>> is_known(np.array(["training", "testSet", "testSet"]), ["ada", "ada", "bo"], ["cow"] * 3).tolist()
        [True, True, False]
    """
    animals = list(zip(group_N, identity_N, strict=True))
    gallery = {animal for animal, part in zip(animals, part_N, strict=True) if part == "training"}
    return np.array([animal in gallery for animal in animals], dtype=bool)


def _rows_by_animal(identity_N: Iterable, group_N: Iterable) -> dict[tuple[str, str], np.ndarray]:
    """Rows of each (group, identity), sorted by name so that the order of the rows does not choose identities."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, (identity, group) in enumerate(zip(identity_N, group_N, strict=True)):
        if identity is not None:
            rows.setdefault((str(group), str(identity)), []).append(row)
    return {animal: np.array(rows[animal]) for animal in sorted(rows)}


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _stratify(groups: dict[str, list[np.ndarray]], seed: int) -> list[dict[str, list[int]]]:
    return [_split_group(animals, _generator(seed, f"stratified\0{group}")) for group, animals in groups.items()]


def _split_by_time(
    groups: dict[str, list[np.ndarray]], strategy: str, seed: int, day_N: np.ndarray, cutoff: str | None
) -> list[dict[str, list[int]]]:
    """Split each group by its dates, and as `stratified` those whose dates do not allow it."""
    given, reasons = [], {}
    if strategy == "time_cutoff":
        check_cutoff(cutoff)
    for group, animals in groups.items():
        rng = _generator(seed, f"stratified\0{group}")  # so the new identities are those of `stratified`
        try:
            if strategy == "time_cutoff":
                given.append(split_by_cutoff(animals, day_N, cutoff, rng))
            else:
                new = _choose_new(np.array([len(rows_P) for rows_P in animals]), rng)
                given.append(split_by_proportion(animals, day_N, new, rng))
        except CannotSplitError as error:
            reasons[group] = str(error)
    if reasons and not given:
        why = "; ".join(f"{group}: {reason}" for group, reason in reasons.items())
        raise UserError(f"data.split={strategy}: no group can be split by time ({why}); set data.split=stratified")
    for group, reason in reasons.items():
        logger.warning("group %s: %s; split as data.split=stratified instead of %s", group, reason, strategy)
    return given + _stratify({group: groups[group] for group in reasons}, seed)


def _split_as_paper(animals: list[np.ndarray], rng: np.random.Generator) -> dict[str, list[int]]:
    """Open-set 90/10, open-set 90/10 of what stays, closed-set 90/10 of what stays then."""
    available, test = _open_set(animals, rng)
    train, threshold = _open_set(available, rng)
    training, validating = _closed_set(train, 1 - SHARE, rng)
    parts = {"training": training, "validating": validating, "thresholdSet": threshold, "testSet": test}
    return {part: [int(row) for rows_P in lists for row in rows_P] for part, lists in parts.items()}


def _open_set(animals: list[np.ndarray], rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """First and second part: whole identities move while they hold less than 10 % of the images, others give some."""
    shuffled = [animals[k] for k in rng.permutation(len(animals))]
    counts_K = np.array([len(rows_P) for rows_P in shuffled], dtype=int)
    num_images = counts_K.sum()
    moved = int(np.searchsorted(np.cumsum(counts_K), np.round(SHARE * num_images)))
    staying = num_images - counts_K[:moved].sum()
    ratio = (1 - SHARE) * num_images / staying if staying else 1.0
    first, second = _closed_set(shuffled[moved:], min(ratio, 1.0), rng)
    return first, shuffled[:moved] + second


def _closed_set(
    animals: list[np.ndarray], ratio: float, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Every identity keeps about `ratio` of its images, at least one, and gives at least one if it has two."""
    first, second = [], []
    for rows_P in animals:
        num_kept = min(int(np.round(ratio * len(rows_P))), len(rows_P) - 1)
        shuffled_P = rng.permutation(rows_P)
        first.append(shuffled_P[: max(num_kept, 1)])
        second.append(shuffled_P[max(num_kept, 1) :])
    return first, [rows_P for rows_P in second if len(rows_P)]


def _split_group(animals: list[np.ndarray], rng: np.random.Generator) -> dict[str, list[int]]:
    counts_K = np.array([len(rows_P) for rows_P in animals])
    parts: dict[str, list[int]] = {part: [] for part in PARTS[:-1]}
    new = _choose_new(counts_K, rng)
    for part, members in new.items():
        parts[part] = [row for k in members for row in animals[k].tolist()]
    chosen = {k for members in new.values() for k in members}
    known = [k for k in range(len(animals)) if k not in chosen]
    shuffled = {k: rng.permutation(animals[k]).tolist() for k in known}
    for part, k in _give(counts_K, known, rng):
        parts[part].append(shuffled[k].pop())
    parts["training"] = [row for rows in shuffled.values() for row in rows]
    return parts


def _choose_new(counts_K: np.ndarray, rng: np.random.Generator) -> dict[str, list[int]]:
    """Identities that are new in each query set: one out of every layer of equal size, layers ordered by images.

    Both sets so get animals with few and with many images. The largest are left out: see LARGEST_NEW_SHARE.
    """
    num_identities = len(counts_K)
    wanted = 3 if num_identities >= 20 else 1 if num_identities >= 4 else 0
    num_each = max(round(NEW_SHARE * num_identities / 2), wanted) if wanted else 0
    chosen: dict[str, list[int]] = {part: [] for part in QUERY_SETS}
    limit = max(LARGEST_NEW_SHARE * counts_K.sum(), np.median(counts_K))  # at least half of the identities fit
    order = _by_images([k for k in range(num_identities) if counts_K[k] <= limit], counts_K, rng)
    layers = np.array_split(order, 2 * num_each) if num_each else []
    for pair in range(num_each):
        for part, layer in zip(rng.permutation(QUERY_SETS), layers[2 * pair : 2 * pair + 2], strict=True):
            chosen[str(part)].append(int(rng.choice(layer)))
    return chosen


def _give(counts_K: np.ndarray, known: list[int], rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """Yield (part, identity) for every image that a known identity gives away.

    First to either query set, then to the other, then to validating; to each no more than its share of images (one
    at least), never one of its last two, and no more than 10 % of the group's images to a part.
    """
    left = {part: max(1, round(SHARE * counts_K.sum())) for part in (*QUERY_SETS, "validating")}
    share_K = np.maximum(1, np.round(SHARE * counts_K.sum() / counts_K[known].sum() * counts_K))
    # Neighbours in size start with opposite query sets, so that both get as many of the identities with 3 images.
    liking = {
        k: [*(QUERY_SETS if position % 2 else QUERY_SETS[::-1]), "validating"]
        for position, k in enumerate(_by_images(known, counts_K, rng).tolist())
    }
    given: Counter[tuple[str, int]] = Counter()
    # Breadth first: more identities with one query each say more about BAKS than few with many.
    for turn in range(counts_K.max()):
        for k in rng.permutation(known).tolist():
            open_parts = [part for part in liking[k] if left[part] and given[part, k] < share_K[k]]
            if open_parts and turn < counts_K[k] - KEPT_IN_TRAINING:
                part = min(open_parts, key=lambda part: given[part, k])
                given[part, k] += 1
                left[part] -= 1
                yield part, k


def _by_images(members: list[int], counts_K: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Members from few to many images, ties in random order."""
    shuffled = rng.permutation(np.array(members, dtype=int))
    return shuffled[np.argsort(counts_K[shuffled], kind="stable")]


def describe_parts(
    part_N: np.ndarray, identity_N: Sequence[str | None] | np.ndarray, group_N: Sequence[str] | np.ndarray
) -> str:
    """Printable table of images/identities per group and part, and below it what each group cannot give.

    Example:
        >>> print(describe_parts(np.array(["training"] * 2 + ["query"]), ["ada", "ada", None], ["cow"] * 3))
        images/identities  training  validating  thresholdSet known  thresholdSet new  testSet known  testSet new  query
        cow                     2/1           0                   0                 0              0            0      1
        cow: thresholdSet has no known query: BAKS is undefined
        ...
    """
    known_N = is_known(part_N, identity_N, group_N)
    cells: dict[str, dict[str, list]] = {
        str(group): {column: [] for column in _COLUMNS} for group in sorted(set(group_N))
    }
    for part, known, identity, group in zip(part_N, known_N, identity_N, group_N, strict=True):
        column = f"{part} {'known' if known else 'new'}" if part in QUERY_SETS else part
        cells[str(group)][column].append(identity)
    lines = [["images/identities", *_COLUMNS]]
    for group, columns in cells.items():
        sizes = [f"{len(members)}/{len(set(members))}" if members else "0" for members in columns.values()]
        lines.append([group, *sizes[:-1], str(len(columns["query"]))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.rjust, [line[0].ljust(widths[0]), *line[1:]], widths)) for line in lines]
    return "\n".join(table + [f"{group}: {note}" for group in cells for note in _shortcomings(cells[group])])


_COLUMNS = ("training", "validating", *(f"{part} {kind}" for part in QUERY_SETS for kind in ("known", "new")), "query")


def _shortcomings(columns: dict[str, list]) -> list[str]:
    """What a group lacks, in words, from the identity of each image in each column of the table."""
    if not columns["training"]:
        return ["no training images: its queries cannot be named"]
    num_images = sum(map(len, columns.values())) - len(columns["query"])
    notes = []
    for part in QUERY_SETS:
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
