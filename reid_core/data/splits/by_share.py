"""Splits by shares of images: stratified within one group, and the paper's open-set and closed-set (paper §3.4).

rows of each animal → rows of each part. The `resplit_…` functions divide availableSet alone, for a fresh split.

Letters: K animals, P images of one animal.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from reid_core.data.splits.encounters import KEPT_IN_TRAINING, QUERY_SETS

SHARE = 0.1  # of the images, for each part that is not training
NEW_SHARE = 0.15  # of the identities, over both query sets
LARGEST_NEW_SHARE = 0.05  # of the group's images in one new identity; a bigger one is worth more in training

Animals = list[np.ndarray]  # rows of each
Rows = dict[str, list[int]]


def split_stratified(animals: Animals, rng: np.random.Generator) -> Rows:
    """Split one group: some animals are new in a query set, the others give images to every part."""
    counts_K = _count(animals)
    return _divide(animals, choose_new(counts_K, rng), int(counts_K.sum()), rng)


def resplit_stratified(animals: Animals, num_new: int, num_images: int, rng: np.random.Generator) -> Rows:
    """Split a group's availableSet again, by the rules of `split_stratified`.

    Args:
        animals: Rows in availableSet of each animal that has any.
        num_new: Animals to be new in thresholdSet.
        num_images: Of the whole group with testSet: the shares are of these, so that the parts are as large as before.
        rng: Chooses.
    """
    new = choose_new_again(_count(animals), num_new, num_images, rng)
    return _divide(animals, {"thresholdSet": new}, num_images, rng)


def split_as_paper(animals: Animals, rng: np.random.Generator) -> Rows:
    """Open-set 90/10, open-set 90/10 of what stays, closed-set 90/10 of what stays then."""
    available, test = _open_set(animals, rng)
    return resplit_as_paper(available, rng) | {"testSet": _join(test)}


def resplit_as_paper(animals: Animals, rng: np.random.Generator) -> Rows:
    """Split availableSet as the paper does: open-set 90/10, then closed-set 90/10 of what stays."""
    train, threshold = _open_set(animals, rng)
    training, validating = _closed_set(train, 1 - SHARE, rng)
    return {"training": _join(training), "validating": _join(validating), "thresholdSet": _join(threshold)}


def choose_new(counts_K: np.ndarray, rng: np.random.Generator) -> dict[str, list[int]]:
    """Identities that are new in each query set: one out of every layer of equal size, layers ordered by images.

    Both sets so get animals with few and with many images. The largest are left out: see LARGEST_NEW_SHARE.
    """
    num_identities = len(counts_K)
    wanted = 3 if num_identities >= 20 else 1 if num_identities >= 4 else 0
    num_each = max(round(NEW_SHARE * num_identities / 2), wanted) if wanted else 0
    chosen: dict[str, list[int]] = {part: [] for part in QUERY_SETS}
    layers = _make_layers(counts_K, 2 * num_each, int(counts_K.sum()), rng)
    for pair in range(num_each):
        for part, layer in zip(rng.permutation(QUERY_SETS), layers[2 * pair : 2 * pair + 2], strict=True):
            chosen[str(part)].append(int(rng.choice(layer)))
    return chosen


def choose_new_again(counts_K: np.ndarray, num_new: int, num_images: int, rng: np.random.Generator) -> list[int]:
    """Identities that are new in another thresholdSet, as `choose_new`; `num_images` is the whole group's."""
    return [int(rng.choice(layer)) for layer in _make_layers(counts_K, num_new, num_images, rng) if len(layer)]


def _count(animals: Animals) -> np.ndarray:
    return np.array([len(rows_P) for rows_P in animals], dtype=int)


def _join(animals: Animals) -> list[int]:
    return [int(row) for rows_P in animals for row in rows_P]


def _open_set(animals: Animals, rng: np.random.Generator) -> tuple[Animals, Animals]:
    """First and second part: whole identities move while they hold less than 10 % of the images, others give some."""
    shuffled = [animals[k] for k in rng.permutation(len(animals))]
    counts_K = _count(shuffled)
    num_images = counts_K.sum()
    moved = int(np.searchsorted(np.cumsum(counts_K), np.round(SHARE * num_images)))
    staying = num_images - counts_K[:moved].sum()
    ratio = (1 - SHARE) * num_images / staying if staying else 1.0
    first, second = _closed_set(shuffled[moved:], min(ratio, 1.0), rng)
    return first, shuffled[:moved] + second


def _closed_set(animals: Animals, ratio: float, rng: np.random.Generator) -> tuple[Animals, Animals]:
    """Every identity keeps about `ratio` of its images, at least one, and gives at least one if it has two."""
    first, second = [], []
    for rows_P in animals:
        num_kept = min(int(np.round(ratio * len(rows_P))), len(rows_P) - 1)
        shuffled_P = rng.permutation(rows_P)
        first.append(shuffled_P[: max(num_kept, 1)])
        second.append(shuffled_P[max(num_kept, 1) :])
    return first, [rows_P for rows_P in second if len(rows_P)]


def _divide(animals: Animals, new: dict[str, list[int]], num_images: int, rng: np.random.Generator) -> Rows:
    """Give the new animals of each query set to it, and of the others their shares to it and to `validating`."""
    parts: Rows = {part: [row for k in members for row in animals[k].tolist()] for part, members in new.items()}
    parts["validating"] = []
    chosen = {k for members in new.values() for k in members}
    known = [k for k in range(len(animals)) if k not in chosen]
    shuffled = {k: rng.permutation(animals[k]).tolist() for k in known}
    for part, k in _give(_count(animals), known, tuple(new), num_images, rng):
        parts[part].append(shuffled[k].pop())
    return {"training": [row for rows in shuffled.values() for row in rows], **parts}


def _make_layers(counts_K: np.ndarray, num_layers: int, num_images: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Identities that may be new, in layers of equal size from few to many images."""
    limit = max(LARGEST_NEW_SHARE * num_images, np.median(counts_K))  # at least half of the identities fit
    order = _by_images(np.flatnonzero(counts_K <= limit).tolist(), counts_K, rng)
    return np.array_split(order, num_layers) if num_layers else []


def _give(
    counts_K: np.ndarray, known: list[int], query_sets: tuple[str, ...], num_images: int, rng: np.random.Generator
) -> Iterator[tuple[str, int]]:
    """Yield (part, identity) for every image that a known identity gives away.

    First to either query set, then to the other, then to validating; to each no more than its share of images (one
    at least), never one of its last two, and no more than 10 % of the group's images to a part.
    """
    left = {part: max(1, round(SHARE * num_images)) for part in (*query_sets, "validating")}
    share_K = np.maximum(1, np.round(SHARE * num_images / counts_K[known].sum() * counts_K))
    # Neighbours in size start with opposite query sets, so that both get as many of the identities with 3 images.
    liking = {
        k: [*(query_sets if position % 2 else query_sets[::-1]), "validating"]
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
