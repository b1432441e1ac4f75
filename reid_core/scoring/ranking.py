"""The identities of each query's candidates, ranked by what all their images reach together.

probabilities of shortlisted pairs (or of identities) → ranking per query → best identity and its score (paper §5.2,
§7.3). Shape letters: Q queries, B shortlist, P scored pairs, C identities of single queries.
"""

from dataclasses import dataclass

import numpy as np

from reid_core.config.parameters import PredictConfig
from reid_core.data.animals import NEW


@dataclass(frozen=True)
class Ranking:
    """Candidates of some queries, those of the best identity first; an identity may come more than once."""

    identity_QB: np.ndarray
    score_QB: np.ndarray  # of the candidate's identity; NaN, at the end, where the candidate was not scored

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Best identity and its score, each (Q,); `NEW` and 0 for a query without any scored candidate."""
        unscored_Q = np.isnan(self.score_QB[:, 0])
        identity_Q = np.where(unscored_Q, NEW, self.identity_QB[:, 0]).astype(object)
        return identity_Q, np.where(unscored_Q, 0.0, self.score_QB[:, 0])

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """The `count` best distinct identities of each query with their scores, for a person to review."""
        reviewed = []
        for identity_B, score_B in zip(self.identity_QB, self.score_QB, strict=True):
            best: dict[str, float] = {}
            for identity, score in zip(identity_B, score_B, strict=True):
                if len(best) == count or np.isnan(score):
                    break
                best.setdefault(identity, float(score))
            reviewed.append(list(best.items()))
        return reviewed


def rank_candidates(probability_QB: np.ndarray, cosine_QB: np.ndarray) -> np.ndarray:
    """Order of each query's candidates, best first; shape (Q, B), indices into B.

    Sorted by probability, ties by cosine, because isotonic probabilities tie often; candidates that were not scored
    (NaN) come last.
    """
    return np.lexsort((_descending(cosine_QB), _descending(probability_QB)), axis=1)


def _descending(value_QB: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(value_QB), np.inf, -value_QB)


def rank_identities(
    probability_QB: np.ndarray, cosine_QB: np.ndarray, identity_QB: np.ndarray, config: PredictConfig
) -> Ranking:
    """Rank each query's candidates by what their identity's images reach together (`predict.aggregate`).

    * max (the paper's, §5.2): an identity's largest probability.
    * mean: over its scored images in the shortlist; mean_top: over the `top_images` best of them, or all it has.
    * vote: the query's `votes` best candidates vote for their identity. Most votes win, ties by the sum of their
      probabilities; the score is that sum divided by the number of votes cast.

    Args:
        probability_QB: Probability that query and candidate show the same animal; NaN if not scored.
        cosine_QB: Cosine similarity; breaks ties.
        identity_QB: Identity of each candidate.
        config: Kind of aggregation.

    Returns:
        The ranking; scores are in the range of the probabilities.

    Example:
        >>> pairs = np.array([[0.8, 0.7, 0.5]]), np.zeros((1, 3)), np.array([["ada", "bo", "ada"]])
        >>> rank_identities(*pairs, PredictConfig(aggregate="max")).best()
        (array(['ada'], dtype=object), array([0.8]))
        >>> rank_identities(*pairs, PredictConfig(aggregate="mean")).best()
        (array(['bo'], dtype=object), array([0.7]))
    """
    order_QB = rank_candidates(probability_QB, cosine_QB)
    identity_QB = np.take_along_axis(identity_QB, order_QB, axis=1)
    score_QB = np.take_along_axis(probability_QB, order_QB, axis=1)
    if config.aggregate == "max":
        return Ranking(identity_QB, score_QB)
    cosine_QB = np.take_along_axis(cosine_QB, order_QB, axis=1)
    first_QB, score_QB = _score_together(score_QB, identity_QB, config)
    again_QB = np.lexsort((_descending(cosine_QB), _descending(score_QB), _descending(first_QB)), axis=1)
    return Ranking(*(np.take_along_axis(array, again_QB, axis=1) for array in (identity_QB, score_QB)))


def _score_together(
    probability_QB: np.ndarray, identity_QB: np.ndarray, config: PredictConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Votes (or score) and score of each candidate's identity; candidates come sorted, best first."""
    scored_QB = ~np.isnan(probability_QB)
    query_P, slot_P = np.nonzero(scored_QB)
    names, code_P = np.unique(identity_QB[scored_QB].astype(str), return_inverse=True)
    # One animal of one query: a cell. Pairs of a cell keep their order.
    _, cell_P = np.unique(query_P * len(names) + code_P, return_inverse=True)
    if config.aggregate == "mean":
        counted_P = np.ones(len(cell_P), dtype=bool)
    elif config.aggregate == "mean_top":
        counted_P = _place_within(cell_P) < config.top_images
    else:
        counted_P = slot_P < config.votes
    sum_P = np.bincount(cell_P, weights=probability_QB[scored_QB] * counted_P)[cell_P]
    count_P = np.bincount(cell_P, weights=counted_P)[cell_P]
    if config.aggregate == "vote":
        score_P = sum_P / np.minimum(scored_QB.sum(axis=1), config.votes)[query_P]
    else:
        score_P = sum_P / count_P
    first_QB, score_QB = np.full(scored_QB.shape, np.nan), np.full(scored_QB.shape, np.nan)
    first_QB[scored_QB], score_QB[scored_QB] = count_P if config.aggregate == "vote" else score_P, score_P
    return first_QB, score_QB


def _place_within(cell_P: np.ndarray) -> np.ndarray:
    """How many pairs of the same cell come before each pair."""
    order = np.argsort(cell_P, kind="stable")
    size_C = np.bincount(cell_P)
    place_P = np.empty(len(cell_P), dtype=int)
    place_P[order] = np.arange(len(cell_P)) - np.repeat(np.cumsum(size_C) - size_C, size_C)
    return place_P
