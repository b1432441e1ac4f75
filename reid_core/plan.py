"""The plan of a whole run: which images, in which order, make up each batch of each rank.

identities of the training rows + sizes + seed → Arrow table, one row per batch of one rank (paper §4.1.4.1, §3.3).
A plan is a pure function of its arguments, so any process can make the same one.
"""

import numpy as np
import pyarrow as pa

from reid_core.config import TrialConfig, UserError

SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        ("rank", pa.int32()),
        ("position", pa.int64()),  # of the batch's first image within the epoch, over all ranks
        ("rows", pa.list_(pa.int32())),
    ]
)


def oversample(identity_N: np.ndarray, row_N: np.ndarray, at_least: int | None) -> dict[str, np.ndarray]:
    """Rows of each identity, repeated in turn up to `at_least` images (paper §3.3); sorted by identity.

    Example:
        >>> oversample(np.array(["ada", "ada", "bo"]), np.array([4, 5, 6]), 3)
        {'ada': array([4, 5, 4]), 'bo': array([6, 6, 6])}
    """
    rows_of = {str(identity): row_N[identity_N == identity] for identity in np.unique(identity_N.astype(str))}
    return {name: np.resize(rows, max(len(rows), at_least or 0)) for name, rows in rows_of.items()}


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


def make_plan(config: TrialConfig, identity_N: np.ndarray, row_N: np.ndarray, *, world_size: int = 1) -> pa.Table:
    """All batches of all epochs, ordered by epoch, step and rank.

    A step's global batch is the same whatever `world_size` is: rank r gets its r-th part.

    Args:
        config: Of the trial; `seed`, `data`, and `optim.epochs`, `optim.batch_size` are used.
        identity_N: Identity of each training image (unique over groups).
        row_N: Row of each training image in the image cache.
        world_size: Number of workers.

    Raises:
        UserError: If the batch cannot be divided among workers, or into identities of M images.
    """
    size, per_identity = config.optim.batch_size, config.data.images_per_identity
    rows_of = oversample(identity_N, row_N, config.data.oversample_to)
    _check_batch(size, per_identity, len(rows_of), world_size)
    steps = count_steps(sum(map(len, rows_of.values())), size)
    share = size // world_size
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    for epoch in range(config.optim.epochs):
        rng = np.random.default_rng([config.seed, epoch])
        for step in range(steps):
            rows = draw_batch(rows_of, size, per_identity, rng)
            for rank in range(world_size):
                part = rows[rank * share : (rank + 1) * share]
                values = (epoch, step, rank, step * size + rank * share, part.astype(np.int32))
                for name, value in zip(SCHEMA.names, values, strict=True):
                    columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def _check_batch(size: int, per_identity: int, num_identities: int, world_size: int) -> None:
    if size % world_size:
        raise UserError(f"optim.batch_size={size} cannot be divided among {world_size} workers")
    if size % per_identity:
        raise UserError(f"optim.batch_size={size} is no multiple of data.images_per_identity={per_identity}")
    if size // per_identity > num_identities:
        raise UserError(
            f"optim.batch_size={size} with data.images_per_identity={per_identity} needs "
            f"{size // per_identity} identities; training has {num_identities}"
        )
