"""Ranking and aggregation of candidates against loops over single queries, and the answers that follow from them."""

import math

import numpy as np
import pytest

from reid_core.config.parameters import PredictConfig
from reid_core.data.animals import NEW
from reid_core.scoring.ranking import rank_candidates, rank_identities
from reid_core.scoring.thresholds import name_queries

MAX = PredictConfig(aggregate="max")


def best_identities(probability_QB, cosine_QB, identity_QB, config: PredictConfig) -> tuple[np.ndarray, np.ndarray]:
    """Best identity of each query and its score."""
    return rank_identities(probability_QB, cosine_QB, identity_QB, config).best()


def test_candidates_are_ranked_by_probability_then_cosine_unscored_last():
    probability_QB = np.array([[0.5, np.nan, 0.5, 0.7, 0.0, np.nan]])
    cosine_QB = np.array([[0.1, 0.9, 0.3, -0.4, -0.9, np.nan]])
    assert rank_candidates(probability_QB, cosine_QB).tolist() == [[3, 2, 0, 4, 1, 5]]


def test_max_breaks_ties_by_cosine():
    probability_QB = np.array([[0.8, 0.8, 0.8], [0.2, 0.9, np.nan]])
    cosine_QB = np.array([[0.1, 0.6, 0.3], [0.99, 0.1, 1.0]])
    identity_QB = np.array([["ada", "bo", "cy"], ["ada", "bo", "cy"]], dtype=object)
    identity_Q, score_Q = best_identities(probability_QB, cosine_QB, identity_QB, MAX)
    assert identity_Q.tolist() == ["bo", "bo"]
    assert score_Q.tolist() == [0.8, 0.9]


def test_max_takes_the_identity_of_the_largest_probability_over_its_images():
    rng = np.random.default_rng(0)
    probability_QB, identity_QB = rng.random((50, 9)), rng.integers(0, 4, (50, 9)).astype(str).astype(object)
    identity_Q, score_Q = best_identities(probability_QB, rng.random((50, 9)), identity_QB, MAX)
    for query in range(50):
        best_of = {name: probability_QB[query][identity_QB[query] == name].max() for name in set(identity_QB[query])}
        assert identity_Q[query] == max(best_of, key=best_of.get)
        assert score_Q[query] == max(best_of.values())


@pytest.mark.parametrize("kind", ["max", "mean", "mean_top", "vote"])
def test_a_query_without_any_scored_candidate_is_new_at_every_threshold(kind):
    identity_Q, score_Q = best_identities(
        np.array([[np.nan, np.nan], [0.5, np.nan]]),
        np.array([[np.nan, 0.4], [0.4, np.nan]]),
        np.array([[None, "ada"], ["bo", None]], dtype=object),
        PredictConfig(aggregate=kind),
    )
    assert identity_Q.tolist() == [NEW, "bo"]
    assert score_Q.tolist() == [0, 0.5]
    assert [name_queries(identity_Q[:1], score_Q[:1], np.array([cut]))[0] for cut in (0.0, 0.5)] == [NEW, NEW]


def test_aggregates_by_hand():
    probability_QB = np.array([[0.9, 0.7, 0.6, 0.6, 0.2, 0.1]])
    identity_QB = np.array([["ada", "bo", "bo", "cy", "cy", "ada"]], dtype=object)

    def answered(kind: str, **settings: int) -> tuple[str, float]:
        config = PredictConfig(aggregate=kind, **settings)
        identity_Q, score_Q = best_identities(probability_QB, np.zeros((1, 6)), identity_QB, config)
        return identity_Q[0], pytest.approx(score_Q[0])

    assert answered("max") == ("ada", 0.9)
    assert answered("mean") == ("bo", 0.65)  # ada 0.5, cy 0.4
    assert answered("mean_top", top_images=1) == ("ada", 0.9)
    assert answered("mean_top", top_images=2) == ("bo", 0.65)
    assert answered("vote", votes=1) == ("ada", 0.9)
    assert answered("vote", votes=3) == ("bo", 1.3 / 3)  # two votes of three
    assert answered("vote", votes=5) == ("bo", 1.3 / 5)  # two votes, as cy; the larger sum
    assert answered("vote", votes=99) == ("bo", 1.3 / 6)  # no more than there are


def slow_aggregate(probability_B, cosine_B, identity_B, config: PredictConfig) -> tuple[str, float]:
    """One query, identity by identity, candidate by candidate."""
    scored = [b for b in range(len(probability_B)) if not math.isnan(probability_B[b])]
    if not scored:
        return NEW, 0.0
    best_first = sorted(scored, key=lambda b: (-probability_B[b], -cosine_B[b]))
    voters = best_first[: config.votes]
    keys = {}
    for identity in {identity_B[b] for b in scored}:
        own = [b for b in best_first if identity_B[b] == identity]
        cosine = max(cosine_B[b] for b in own)
        if config.aggregate == "max":
            keys[identity] = (probability_B[own[0]], cosine_B[own[0]])
        elif config.aggregate == "vote":
            given = [probability_B[b] for b in voters if identity_B[b] == identity]
            keys[identity] = (len(given), sum(given), cosine)
        else:
            taken = own if config.aggregate == "mean" else own[: config.top_images]
            keys[identity] = (sum(probability_B[b] for b in taken) / len(taken), cosine)
    winner = max(keys, key=keys.get)
    return winner, keys[winner][1] / len(voters) if config.aggregate == "vote" else keys[winner][0]


@pytest.mark.parametrize("kind", ["max", "mean", "mean_top", "vote"])
@pytest.mark.parametrize("seed", range(4))
def test_aggregates_equal_the_slow_way(kind, seed):
    """Probabilities on a coarse grid of binary fractions, so that sums are exact and ties are many."""
    rng = np.random.default_rng(seed)
    probability_QB = rng.integers(0, 9, (120, 7)) / 8
    probability_QB[rng.random((120, 7)) < 0.25] = np.nan
    cosine_QB = rng.random((120, 7))
    identity_QB = rng.integers(0, 4, (120, 7)).astype(str).astype(object)
    config = PredictConfig(aggregate=kind, top_images=2, votes=4)
    identity_Q, score_Q = best_identities(probability_QB, cosine_QB, identity_QB, config)
    for query in range(120):
        expected = slow_aggregate(probability_QB[query], cosine_QB[query], identity_QB[query], config)
        assert (identity_Q[query], score_Q[query]) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize("kind", ["max", "mean", "mean_top", "vote"])
def test_order_of_candidates_changes_nothing(kind):
    rng = np.random.default_rng(5)
    arrays = rng.random((40, 8)), rng.random((40, 8)), rng.integers(0, 3, (40, 8)).astype(str).astype(object)
    config, order = PredictConfig(aggregate=kind), rng.permutation(8)
    identity_Q, score_Q = best_identities(*arrays, config)
    shuffled_Q, again_Q = best_identities(*(array[:, order] for array in arrays), config)
    assert identity_Q.tolist() == shuffled_Q.tolist()
    assert score_Q == pytest.approx(again_Q)
    assert score_Q.min() >= 0
    assert score_Q.max() <= 1


def test_reviewed_identities_are_distinct_and_best_first():
    nan = np.nan
    ranking = rank_identities(
        np.array([[0.25, 0.5, 0.75, 0.5], [nan] * 4]),
        np.array([[0.9, 0.8, 0.7, 0.6], [0.9, nan, nan, nan]]),
        np.array([["ada", "bo", "ada", "cy"], ["ada", None, None, None]], dtype=object),
        MAX,
    )
    best, unscored = ranking.top(2)
    assert best == [("ada", 0.75), ("bo", 0.5)]  # bo and cy tie; bo has the larger cosine
    assert unscored == []
    assert ranking.top(9)[0] == [("ada", 0.75), ("bo", 0.5), ("cy", 0.5)]


def test_the_first_reviewed_identity_is_the_answer_with_its_score():
    arrays = np.array([[0.9, 0.7, 0.6, 0.1]]), np.zeros((1, 4)), np.array([["ada", "bo", "bo", "ada"]], dtype=object)
    ranking = rank_identities(*arrays, PredictConfig(aggregate="mean"))
    assert ranking.top() == [[("bo", pytest.approx(0.65)), ("ada", pytest.approx(0.5))]]
