"""From probabilities of image pairs to answers: best identity, threshold, name or `new_individual`.

probabilities of shortlisted pairs → best identity and its score per query → threshold → answer (paper §5.2).
Shape letters: Q queries, B shortlist, K identities, T thresholds.
"""

from dataclasses import dataclass

import numpy as np

from reid_core.metrics import NEW


def rank_candidates(probability_QB: np.ndarray, cosine_QB: np.ndarray) -> np.ndarray:
    """Order of each query's candidates, best first; shape (Q, B), indices into B.

    Sorted by probability, ties by cosine, because isotonic probabilities tie often; candidates that were not scored
    (NaN) come last.
    """
    return np.lexsort((-np.nan_to_num(cosine_QB, nan=-2.0), -np.nan_to_num(probability_QB, nan=-1.0)), axis=1)


def best_identity(probability_QB: np.ndarray, cosine_QB: np.ndarray, identity_QB: np.ndarray):
    """Identity of the most probable candidate (the maximum over an identity's images, as in the paper).

    Args:
        probability_QB: Fused probability that query and candidate show the same animal, in [0, 1]; NaN if not scored.
        cosine_QB: Cosine similarity; breaks ties.
        identity_QB: Identity of each candidate.

    Returns:
        identity_Q: shape (Q,); `NEW` for a query without any scored candidate.
        score_Q: its probability, shape (Q,), 0 for a query without any scored candidate.
    """
    best_Q1 = rank_candidates(probability_QB, cosine_QB)[:, :1]
    score_Q = np.take_along_axis(probability_QB, best_Q1, axis=1)[:, 0]
    identity_Q = np.take_along_axis(identity_QB, best_Q1, axis=1)[:, 0]
    unscored_Q = np.isnan(score_Q)
    return np.where(unscored_Q, NEW, identity_Q).astype(object), np.where(unscored_Q, 0.0, score_Q)


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it reaches on the queries it was chosen on."""

    value: float
    baks: float
    baus: float
    geo_mean: float


def choose_threshold(
    score_Q: np.ndarray,
    right_Q: np.ndarray,
    identity_Q: np.ndarray,
    known_Q: np.ndarray,
    *,
    smallest: float,
    largest: float,
) -> Threshold:
    """The threshold in [smallest, largest] with the largest GEO_MEAN, exact over every cut (paper §5.2).

    GEO_MEAN is a step function of the threshold, so one sort of the scores gives its value between all of them. Among
    equally good cuts the widest is taken, and its middle.

    Args:
        score_Q: Probability (or cosine) of the best candidate; a query is named if it is ≥ the threshold.
        right_Q: Whether the best candidate is the true identity; shape (Q,), bool.
        identity_Q: True identity; shape (Q,).
        known_Q: Whether that identity is in the gallery; shape (Q,), bool.
        smallest: Lower end of the range.
        largest: Upper end of the range.

    Returns:
        The chosen threshold; its value is NaN if there are no known or no new queries (GEO_MEAN is then undefined).

    Example:
        >>> choose_threshold(np.array([0.9, 0.2]), np.array([True, False]), np.array(["ada", "zoe"]),
        ...                  np.array([True, False]), smallest=0.0, largest=1.0)
        Threshold(value=0.55, baks=1.0, baus=1.0, geo_mean=1.0)
    """
    if not known_Q.any() or known_Q.all():
        return Threshold(float("nan"), float("nan"), float("nan"), float("nan"))
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
