"""The threshold: smallest score that is accepted as a known animal.

best score per query + truth → the threshold with the largest GEO_MEAN (paper §5.2) → identity or `new_individual`.
Letters: Q queries, T thresholds.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from reid_core.data.animals import NEW

GRID = tuple(step / 20 for step in range(1, 20))  # the paper's thresholds: 0.05, 0.10 … 0.95


class ScoredQueries(NamedTuple):
    """The best candidate of each query, and the truth about the query."""

    score_Q: np.ndarray  # probability (or cosine) of the best candidate; the query is named if it is ≥ the threshold
    right_Q: np.ndarray  # whether the best candidate is the true identity; bool
    identity_Q: np.ndarray  # true identity
    known_Q: np.ndarray  # whether that identity is in the gallery; bool

    def select(self, chosen_Q: np.ndarray) -> "ScoredQueries":
        """Some of the queries, by a mask or by positions."""
        return ScoredQueries(*(column_Q[chosen_Q] for column_Q in self))


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it reaches on the queries it was chosen on."""

    value: float
    baks: float
    baus: float
    geo_mean: float


def choose_threshold(
    queries: ScoredQueries, *, smallest: float, largest: float, search: Literal["exact", "grid"] = "exact"
) -> Threshold:
    """The threshold in [smallest, largest] with the largest GEO_MEAN (paper §5.2).

    * exact: over every cut. GEO_MEAN is a step function of the threshold, so one sort of the scores gives its value
      between all of them. Among equally good cuts the widest is taken, and its middle.
    * grid: over the paper's 0.05, 0.10 … 0.95. Of equally good values the middle of the longest run is taken. If the
      range holds none of them, the middle of the range.

    Returns:
        The chosen threshold; its value is NaN if there are no known or no new queries (GEO_MEAN is then undefined).

    Example:
        >>> queries = ScoredQueries(
        ...     score_Q=np.array([0.9, 0.2]),
        ...     right_Q=np.array([True, False]),
        ...     identity_Q=np.array(["ada", "zoe"]),
        ...     known_Q=np.array([True, False]),
        ... )
        >>> choose_threshold(queries, smallest=0.0, largest=1.0)
        Threshold(value=0.55, baks=1.0, baus=1.0, geo_mean=1.0)
        >>> choose_threshold(queries, smallest=0.0, largest=0.8, search="grid").value  # of 0.25 … 0.80
        0.5
    """
    if not queries.known_Q.any() or queries.known_Q.all():
        return Threshold(float("nan"), float("nan"), float("nan"), float("nan"))
    return (_best_on_grid if search == "grid" else _best_cut)(queries, smallest, largest)


def _best_cut(queries: ScoredQueries, smallest: float, largest: float) -> Threshold:
    score_Q, right_Q, identity_Q, known_Q = queries
    weight_Q = _balanced_weights(identity_Q, known_Q)
    edge_T, start_T = np.unique(np.asarray(score_Q, dtype=float), return_inverse=True)
    named_T = np.bincount(start_T, weights=weight_Q * (known_Q & right_Q), minlength=len(edge_T))
    new_T = np.bincount(start_T, weights=weight_Q * ~known_Q, minlength=len(edge_T))
    # Cut t lies in (edge[t-1], edge[t]]: scores from edge[t] on are named, all below are called new.
    baks_T = np.append(np.cumsum(named_T[::-1])[::-1], 0.0)
    baus_T = np.append(0.0, np.cumsum(new_T))
    below_T, above_T = np.append(-np.inf, edge_T), np.append(edge_T, np.inf)
    low_T, high_T = np.clip(below_T, smallest, largest), np.clip(above_T, smallest, largest)
    allowed_T = (above_T >= smallest) & (below_T < largest)
    geo_T = np.where(allowed_T, np.sqrt(np.clip(baks_T * baus_T, 0, 1)), -1.0)
    best = max(np.flatnonzero(geo_T >= geo_T.max() - 1e-12), key=lambda cut: high_T[cut] - low_T[cut])
    value = (low_T[best] + high_T[best]) / 2
    return Threshold(float(value), float(baks_T[best]), float(baus_T[best]), float(geo_T[best]))


def _best_on_grid(queries: ScoredQueries, smallest: float, largest: float) -> Threshold:
    grid_T = np.array([value for value in GRID if smallest <= value <= largest] or [(smallest + largest) / 2])
    baks_T, baus_T, geo_T = threshold_curve(queries, grid_T)
    best = np.flatnonzero(geo_T >= geo_T.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(runs, key=len)
    chosen = longest[(len(longest) - 1) // 2]
    return Threshold(float(grid_T[chosen]), float(baks_T[chosen]), float(baus_T[chosen]), float(geo_T[chosen]))


def threshold_curve(queries: ScoredQueries, thresholds_T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """BAKS, BAUS and GEO_MEAN at each threshold, each of shape (T,) (paper figures 6.3, 6.4).

    Args:
        queries: With known truth.
        thresholds_T: In any order.

    Returns:
        baks_T, baus_T, geo_T: NaN everywhere where there is no known query, no new query, or either is missing.

    Example:
        >>> known_Q = np.array([True, False])
        >>> queries = ScoredQueries(np.array([0.9, 0.2]), known_Q, np.array(["ada", "zoe"]), known_Q)
        >>> baks_T, baus_T, geo_T = threshold_curve(queries, np.array([0.1, 0.5, 0.95]))
        >>> baks_T.tolist(), baus_T.tolist(), geo_T.tolist()
        ([1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0])
    """
    score_Q, right_Q, identity_Q, known_Q = queries
    weight_Q = _balanced_weights(identity_Q, known_Q)
    named_TQ = np.asarray(score_Q, dtype=float) >= thresholds_T[:, None]
    baks_T = named_TQ @ (weight_Q * (known_Q & right_Q)) if known_Q.any() else np.full(len(thresholds_T), np.nan)
    baus_T = ~named_TQ @ (weight_Q * ~known_Q) if not known_Q.all() else np.full(len(thresholds_T), np.nan)
    return baks_T, baus_T, np.sqrt(np.clip(baks_T * baus_T, 0, 1))


def _balanced_weights(identity_Q: np.ndarray, known_Q: np.ndarray) -> np.ndarray:
    """Weight of each query so that identities count alike; the known sum to 1, and so do the new."""
    weight_Q = np.zeros(len(identity_Q))
    for chosen_Q in (known_Q, ~known_Q):
        _, index, count = np.unique(identity_Q[chosen_Q].astype(str), return_inverse=True, return_counts=True)
        weight_Q[chosen_Q] = 1 / count[index] / len(count)
    return weight_Q


def name_queries(identity_Q: np.ndarray, score_Q: np.ndarray, threshold_Q: np.ndarray) -> np.ndarray:
    """The best candidate's identity where its score reaches the threshold, else `NEW`; shape (Q,).

    Example:
        >>> name_queries(np.array(["ada", "bo"]), np.array([0.9, 0.4]), np.array([0.5, 0.5])).tolist()
        ['ada', 'new_individual']
    """
    return np.where(score_Q >= threshold_Q, identity_Q, NEW).astype(object)
