"""BAKS, BAUS, GEO_MEAN and their bootstrap intervals. Numpy only.

answers and truth per query image → share right per identity → numbers (paper §6.0).
Shape letters: Q queries, K identities, R resamples.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

NEW = "new_individual"
DRAWS_HELD = 2**22  # drawn identities held at once: 48 MB with their shares


class Shares(NamedTuple):
    """Share of images answered rightly, one number per identity; all that the metrics and their intervals need."""

    known_K: np.ndarray  # identities that are in the gallery: share named rightly, in [0, 1]
    new_K: np.ndarray  # identities that are not: share answered `NEW`, in [0, 1]


def share_right(right_Q: np.ndarray, identity_Q: np.ndarray) -> np.ndarray:
    """Share of right answers of each identity, in the sorted order of the identities.

    Example:
        >>> share_right(np.array([True, False, True]), np.array(["ada", "ada", "bo"]))
        array([0.5, 1. ])
    """
    _, index_Q = np.unique(np.asarray(identity_Q, dtype=str), return_inverse=True)
    return np.bincount(index_Q, weights=np.asarray(right_Q, dtype=float)) / np.bincount(index_Q)


def compute_shares(answer_Q: np.ndarray, identity_Q: np.ndarray, known_Q: np.ndarray) -> Shares:
    """Split the queries into known and new animals and take the share of right answers per identity.

    Args:
        answer_Q: Answered identity or `NEW`; shape (Q,).
        identity_Q: True identity; shape (Q,).
        known_Q: Whether the true identity is in the gallery; shape (Q,), bool.

    Returns:
        `Shares`; `NEW` for a known animal is simply wrong.
    """
    named_rightly_Q = answer_Q == identity_Q
    rejected_Q = answer_Q == NEW
    return Shares(
        share_right(named_rightly_Q[known_Q], identity_Q[known_Q]),
        share_right(rejected_Q[~known_Q], identity_Q[~known_Q]),
    )


def baks(shares: Shares) -> float:
    """Balanced accuracy on known identities: mean share over identities in the gallery; NaN if there are none.

    Example:
        >>> baks(Shares(np.array([1.0, 0.5]), np.array([])))
        0.75
    """
    return float(np.mean(shares.known_K)) if len(shares.known_K) else float("nan")


def baus(shares: Shares) -> float:
    """Balanced accuracy on unknown identities: mean share answered `NEW`; NaN if there are no new identities."""
    return float(np.mean(shares.new_K)) if len(shares.new_K) else float("nan")


def geo_mean(shares: Shares) -> float:
    """GEO_MEAN = sqrt(BAKS × BAUS) (paper §6.0); NaN where either is undefined.

    Example:
        >>> geo_mean(Shares(np.array([0.25]), np.array([1.0])))
        0.5
        >>> geo_mean(Shares(np.array([0.25]), np.array([])))
        nan
    """
    return float(np.sqrt(baks(shares) * baus(shares)))


def pool(shares_of_group: Mapping[str, Shares]) -> Shares:
    """All groups' identities as one set: the paper's "overall" is the `geo_mean` of this (paper table 6.2)."""
    nothing = np.empty(0)  # so that no group at all is no identity at all
    return Shares(
        np.concatenate([nothing, *(shares.known_K for shares in shares_of_group.values())]),
        np.concatenate([nothing, *(shares.new_K for shares in shares_of_group.values())]),
    )


def mean_of_groups(shares_of_group: Mapping[str, Shares]) -> float:
    """Mean GEO_MEAN over the groups where it is defined; NaN if it is defined nowhere."""
    values = np.array([geo_mean(shares) for shares in shares_of_group.values()])
    return float(np.mean(values[~np.isnan(values)])) if np.any(~np.isnan(values)) else float("nan")


def competition_mean(shares_of_group: Mapping[str, Shares]) -> float:
    """Mean GEO_MEAN over all groups, an undefined one counted as 0 (AnimalCLEF25's rule); NaN without any group."""
    values = np.nan_to_num([geo_mean(shares) for shares in shares_of_group.values()])
    return float(np.mean(values)) if len(values) else float("nan")


def bootstrap_means(share_K: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Mean share under resampling of identities with replacement; shape (R,).

    The same seed and number of identities draw the same identities: two models scored on the same queries are
    thereby compared in pairs.
    """
    num_identities = len(share_K)
    if num_identities == 0:
        return np.full(resamples, np.nan)
    rng = np.random.default_rng([seed, num_identities])
    block = max(1, DRAWS_HELD // num_identities)
    mean_R = np.empty(resamples)
    for start in range(0, resamples, block):
        shape = len(mean_R[start : start + block]), num_identities
        drawn_RK = rng.integers(num_identities, size=shape, dtype=np.int32)
        mean_R[start : start + block] = share_K[drawn_RK].mean(axis=1)
    return mean_R


class Draws(NamedTuple):
    """BAKS and BAUS under resampling, each (R,); NaN where undefined."""

    baks_R: np.ndarray
    baus_R: np.ndarray

    def geo_mean(self) -> np.ndarray:
        """GEO_MEAN of each resample; (R,)."""
        return np.sqrt(self.baks_R * self.baus_R)


def bootstrap(shares: Shares, *, resamples: int = 2000, seed: int = 0) -> Draws:
    """BAKS and BAUS under resampling of known and of new identities."""
    return Draws(
        bootstrap_means(shares.known_K, resamples=resamples, seed=2 * seed),
        bootstrap_means(shares.new_K, resamples=resamples, seed=2 * seed + 1),
    )


def bootstrap_groups(shares_of_group: Mapping[str, Shares], *, resamples: int = 2000) -> dict[str, Draws]:
    """`bootstrap` of each group, with the seed of its position."""
    return {
        group: bootstrap(shares, resamples=resamples, seed=index)
        for index, (group, shares) in enumerate(shares_of_group.items())
    }


def bootstrap_mean_of_groups(shares_of_group: Mapping[str, Shares], *, resamples: int = 2000) -> np.ndarray:
    """`mean_of_groups` under resampling within each group; shape (R,)."""
    return _mean_of_groups(bootstrap_groups(shares_of_group, resamples=resamples), resamples)


def bootstrap_competition_mean(shares_of_group: Mapping[str, Shares], *, resamples: int = 2000) -> np.ndarray:
    """`competition_mean` under resampling within each group; shape (R,)."""
    return _competition_mean(bootstrap_groups(shares_of_group, resamples=resamples), resamples)


def _mean_of_groups(draws_of_group: Mapping[str, Draws], resamples: int) -> np.ndarray:
    draws = _defined_geo_means(draws_of_group)
    return np.mean(draws, axis=0) if draws else np.full(resamples, np.nan)


def _competition_mean(draws_of_group: Mapping[str, Draws], resamples: int) -> np.ndarray:
    draws = _defined_geo_means(draws_of_group)
    return np.sum(draws, axis=0) / len(draws_of_group) if draws else np.full(resamples, np.nan)


def _defined_geo_means(draws_of_group: Mapping[str, Draws]) -> list[np.ndarray]:
    """Of each group where GEO_MEAN is defined: it then is in every resample."""
    geo_means = [draws.geo_mean() for draws in draws_of_group.values()]
    return [geo_R for geo_R in geo_means if not np.isnan(geo_R).any()]


def interval(draws_R: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws; (NaN, NaN) where they are undefined."""
    low, high = np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(shares_of_group: Mapping[str, Shares]) -> dict[str, float]:
    """All metrics by name, undefined ones NaN.

    Returns:
        `baks.<group>`, `baus.<group>`, `geo_mean.<group>`; `mean_of_groups` (the sweep's default objective); `pooled`
        (the paper's overall, table 6.2) with `pooled_baks` and `pooled_baus`; `competition` (AnimalCLEF25's mean).
        Each with its 95 % bootstrap interval over identities: `geo_mean_low.<group>`, `pooled_high` and so on.
    """
    metrics: dict[str, float] = {}
    draws_of_group = bootstrap_groups(shares_of_group)
    for group, shares in shares_of_group.items():
        draws = draws_of_group[group]
        metrics |= _with_interval("baks", baks(shares), draws.baks_R, f".{group}")
        metrics |= _with_interval("baus", baus(shares), draws.baus_R, f".{group}")
        metrics |= _with_interval("geo_mean", geo_mean(shares), draws.geo_mean(), f".{group}")
    pooled = pool(shares_of_group)
    draws = bootstrap(pooled)
    resamples = len(draws.baks_R)
    means, competition = _mean_of_groups(draws_of_group, resamples), _competition_mean(draws_of_group, resamples)
    return (
        metrics
        | _with_interval("mean_of_groups", mean_of_groups(shares_of_group), means)
        | _with_interval("pooled", geo_mean(pooled), draws.geo_mean())
        | _with_interval("pooled_baks", baks(pooled), draws.baks_R)
        | _with_interval("pooled_baus", baus(pooled), draws.baus_R)
        | _with_interval("competition", competition_mean(shares_of_group), competition)
    )


def _with_interval(name: str, value: float, draws_R: np.ndarray, end: str = "") -> dict[str, float]:
    low, high = interval(draws_R)
    return {f"{name}{end}": value, f"{name}_low{end}": low, f"{name}_high{end}": high}
