"""BAKS, BAUS and GEO_MEAN, each identity counting alike.

answers and truth per query → share right per identity → numbers (paper §6.0).
Shape letters: Q queries, K identities.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from reid_core.data.animals import NEW


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
