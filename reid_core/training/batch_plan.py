"""The plan of a whole run: which images, in which order, make up each batch of each rank.

identities of the training rows + sizes + seed → Arrow table, one row per batch of one rank (paper §3.3, §4.1.4, §7.1).
A plan is a pure function of its arguments, so any process can make the same one.

Letters: N training images, E extra variants.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from reid_core.config.parameters import DataConfig, TrialConfig
from reid_core.data.animals import positions_by_group
from reid_core.errors import UserError

SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("rank", pa.int32()),
        ("position", pa.int64()),  # of the batch's first image within the epoch, over all ranks
        ("rows", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class Pool:
    """What batches are drawn from: photographs, and with `data.variants` their fixed augmented variants.

    Attributes:
        rows_of: Rows of each identity. A row below the number of photographs is a photograph; extra variant e has the
            row number of photographs + e.
        source_E: Row of the photograph that each extra variant is made of; shape (E,), int64.
        variant_E: Which variant of it, from 1; shape (E,), int64. Variant 0 is the photograph itself.
    """

    rows_of: dict[str, np.ndarray]
    source_E: np.ndarray
    variant_E: np.ndarray


def oversample(identity_N: np.ndarray, row_N: np.ndarray, at_least: int | None) -> dict[str, np.ndarray]:
    """Rows of each identity, repeated in turn up to `at_least` images (paper §3.3); sorted by identity.

    Example:
        >>> oversample(np.array(["ada", "ada", "bo"]), np.array([4, 5, 6]), 3)
        {'ada': array([4, 5, 4]), 'bo': array([6, 6, 6])}
    """
    rows_of = {identity: row_N[positions] for identity, positions in positions_by_group(identity_N)}
    return {name: np.resize(rows, max(len(rows), at_least or 0)) for name, rows in rows_of.items()}


def make_pool(config: DataConfig, identity_N: np.ndarray, row_N: np.ndarray, num_images: int) -> Pool:
    """The images of training, small identities filled up to `oversample_to` (never beyond `undersample_to`).

    Online (`variants` is None) photographs are repeated in turn, and each repetition is augmented anew. Offline the
    k-th repetition of a photograph is its variant k modulo `variants`.

    Args:
        config: `oversample_to`, `undersample_to` and `variants` are used.
        identity_N: Identity of each training image (unique over groups).
        row_N: Row of each training image in the image cache, all different.
        num_images: Rows of the image cache; the extra variants are numbered from there.

    Example:
        >>> config = DataConfig(oversample_to=5, variants=3)
        >>> make_pool(config, np.array(["ada", "ada", "bo"]), np.array([4, 5, 6]), 10)
        Pool(rows_of={'ada': array([ 4,  5, 10, 11, 12]), 'bo': array([ 6, 13, 14,  6, 13])},
             source_E=array([4, 5, 4, 6, 6]), variant_E=array([1, 1, 2, 1, 2]))
    """
    targets = [target for target in (config.oversample_to, config.undersample_to) if target is not None]
    rows_of = oversample(identity_N, row_N, min(targets) if config.oversample_to else None)
    if config.variants is None:
        return Pool(rows_of, np.empty(0, np.int64), np.empty(0, np.int64))
    return _vary_repetitions(rows_of, config.variants, num_images)


def _vary_repetitions(rows_of: dict[str, np.ndarray], variants: int, num_images: int) -> Pool:
    row_of_pair: dict[tuple[int, int], int] = {}  # (photograph, variant) → row, of the extra ones
    varied = {}
    for name, rows in rows_of.items():
        variant_of = np.arange(len(rows)) // len(np.unique(rows)) % variants
        pairs = zip(rows.tolist(), variant_of.tolist(), strict=True)
        varied[name] = np.array(
            [row_of_pair.setdefault(pair, num_images + len(row_of_pair)) if pair[1] else pair[0] for pair in pairs]
        )
    pairs_E2 = np.array(list(row_of_pair), dtype=np.int64).reshape(-1, 2)
    return Pool(varied, pairs_E2[:, 0], pairs_E2[:, 1])


def undersample(rows_of: dict[str, np.ndarray], at_most: int | None, seed: int, epoch: int) -> dict[str, np.ndarray]:
    """This epoch's rows: of every identity with more, another `at_most` of its images each epoch (paper §7.1)."""
    if at_most is None:
        return rows_of
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(1,)))  # batches draw without the key
    return {
        name: rows if len(rows) <= at_most else rng.choice(rows, at_most, replace=False)
        for name, rows in rows_of.items()
    }


def count_images(pool: Pool, at_most: int | None) -> int:
    """Images of one epoch when at most so many of each identity are used."""
    sizes = [len(rows) for rows in pool.rows_of.values()]
    return sum(sizes if at_most is None else [min(size, at_most) for size in sizes])


def count_steps(num_images: int, batch_size: int) -> int:
    """Batches per epoch: whole batches only, at least one."""
    return max(1, num_images // batch_size)


def draw_batch(
    rows_of: dict[str, np.ndarray], batch_size: int, per_identity: int, rng: np.random.Generator
) -> np.ndarray:
    """One M-per-identity batch: distinct identities, M images of each, with replacement only if it has fewer.

    This is `pytorch_metric_learning.samplers.MPerClassSampler`'s rule; ours draws from its own generator.
    """
    names = list(rows_of)
    chosen = rng.permutation(len(names))[: batch_size // per_identity]
    draws = []
    for index in chosen:
        rows = rows_of[names[index]]
        draws.append(rng.choice(rows, per_identity, replace=len(rows) < per_identity))
    return np.concatenate(draws)


def draw_epoch(
    rows_of: dict[str, np.ndarray],
    batch_size: int,
    per_identity: int | None,
    num_steps: int,
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """The global batches of one epoch: M per identity, or (`per_identity` None) every row once, shuffled.

    What is left over after the last whole batch is not used; fewer rows than one batch are repeated in turn.
    """
    if per_identity is None:
        yield from np.resize(rng.permutation(np.concatenate(list(rows_of.values()))), (num_steps, batch_size))
    else:
        for _ in range(num_steps):
            yield draw_batch(rows_of, batch_size, per_identity, rng)


def make_plan(config: TrialConfig, pool: Pool, *, world_size: int = 1) -> pa.Table:
    """All batches of all epochs, ordered by epoch, step and rank.

    A step's global batch is the same whatever `world_size` is: rank r gets its r-th part.

    Args:
        config: Of the trial; `seed`, `data`, `loss.name`, and `optim.epochs`, `optim.batch_size` are used.
        pool: From `make_pool`, with the same configuration.
        world_size: Number of workers.

    Raises:
        UserError: If the batch cannot be divided among workers, or into identities of M images, or holds no triplet.
    """
    check_batches(config, pool, world_size=world_size)
    size = config.optim.batch_size
    num_steps, share = count_steps(count_images(pool, config.data.undersample_to), size), size // world_size
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for epoch in range(config.optim.epochs):
        rng = np.random.default_rng([config.seed, epoch])
        rows_of = undersample(pool.rows_of, config.data.undersample_to, config.seed, epoch)
        for step, rows in enumerate(draw_epoch(rows_of, size, config.data.images_per_identity, num_steps, rng)):
            for rank in range(world_size):
                part = rows[rank * share : (rank + 1) * share]
                values = (epoch, step, rank, step * size + rank * share, part.astype(np.int32))
                for name, value in zip(SCHEMA.names, values, strict=True):
                    columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def check_batches(config: TrialConfig, pool: Pool, *, world_size: int = 1) -> None:
    """Find out whether batches can be drawn, without drawing any; arguments and errors of `make_plan`."""
    if config.optim.epochs:
        _check_batch(config.optim.batch_size, config.data.images_per_identity, len(pool.rows_of), world_size)
        _check_triplets(config, pool)


def _check_batch(size: int, per_identity: int | None, num_identities: int, world_size: int) -> None:
    if not num_identities:
        raise UserError("training has no images: no batch can be drawn")
    if size % world_size:
        raise UserError(f"optim.batch_size={size} cannot be divided among {world_size} workers")
    if per_identity is None:
        return
    if size % per_identity:
        raise UserError(f"optim.batch_size={size} is not a multiple of data.images_per_identity={per_identity}")
    if size // per_identity > num_identities:
        raise UserError(
            f"optim.batch_size={size} with data.images_per_identity={per_identity} needs "
            f"{size // per_identity} identities; training has {num_identities}"
        )


def _check_triplets(config: TrialConfig, pool: Pool) -> None:
    """Refuse a triplet loss without any pair of two images of one identity."""
    data = config.data
    # Online, two copies of a photograph look different; offline, only its variants do.
    largest = max(len(np.unique(rows) if data.variants else rows) for rows in pool.rows_of.values())
    if config.loss.name == "triplet" and (largest == 1 or data.undersample_to == 1):
        raise UserError(
            "loss.name=triplet needs two images of one identity, and training has none with "
            f"data.oversample_to={data.oversample_to}, data.undersample_to={data.undersample_to}, "
            f"data.variants={data.variants}: raise data.oversample_to to 2 or more and lift the other limits to match"
        )
