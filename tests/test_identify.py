"""The exact threshold against brute force, and the answers that follow from it."""

import math

import numpy as np
import pytest

from reid_core.identify import best_identity, choose_threshold, name_queries, rank_candidates
from reid_core.metrics import NEW


def slow_metrics(threshold: float, score_Q, right_Q, identity_Q, known_Q) -> tuple[float, float, float]:
    """BAKS, BAUS, GEO_MEAN at one threshold, query by query."""
    recalls: dict[tuple[bool, str], list[bool]] = {}
    for score, right, identity, known in zip(score_Q, right_Q, identity_Q, known_Q, strict=True):
        named = score >= threshold
        recalls.setdefault((bool(known), identity), []).append(bool(named and right) if known else not named)
    sides = [[np.mean(hits) for (known, _), hits in recalls.items() if known is side] for side in (True, False)]
    baks, baus = map(np.mean, sides)
    return float(baks), float(baus), math.sqrt(baks * baus)


def random_queries(seed: int) -> dict[str, np.ndarray]:
    """Up to 40 queries; scores of some seeds lie on a coarse grid, so that they tie with each other and with ends."""
    rng = np.random.default_rng(seed)
    num_queries = int(rng.integers(2, 40))
    animal_Q = rng.integers(0, 8, num_queries)
    animal_Q[:2] = 0, 7  # one known and one new at least
    known_Q = animal_Q < 5
    score_Q = np.clip(rng.normal(np.where(known_Q, 0.6, 0.4), 0.25), 0, 1)
    if seed % 2:
        score_Q = np.round(score_Q * 10) / 10
    return {
        "score_Q": score_Q.astype(np.float32 if seed % 3 else np.float64),
        "right_Q": known_Q & (rng.random(num_queries) < 0.7),
        "identity_Q": np.array([f"animal {i}" for i in animal_Q], dtype=object),
        "known_Q": known_Q,
    }


def cuts(score_Q: np.ndarray, smallest: float, largest: float) -> np.ndarray:
    """A threshold in every interval between scores, and all ends, within the range."""
    edges = np.unique(np.append(score_Q.astype(float), [smallest, largest]))
    all_cuts = np.concatenate([edges, (edges[1:] + edges[:-1]) / 2])
    return all_cuts[(all_cuts >= smallest) & (all_cuts <= largest)]


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.05, 0.95), (0.3, 0.5), (0.4, 0.4)])
@pytest.mark.parametrize("seed", range(12))
def test_threshold_is_the_best_of_all_cuts_and_of_a_fine_grid(seed, limits):
    queries, (smallest, largest) = random_queries(seed), limits
    chosen = choose_threshold(**queries, smallest=smallest, largest=largest)
    tried = np.concatenate([cuts(queries["score_Q"], *limits), np.linspace(smallest, largest, 101)])
    best = max(slow_metrics(threshold, **queries)[2] for threshold in tried)
    assert chosen.geo_mean == pytest.approx(best, abs=1e-9)
    assert smallest <= chosen.value <= largest
    assert (chosen.baks, chosen.baus, chosen.geo_mean) == pytest.approx(slow_metrics(chosen.value, **queries))


def test_of_equally_good_cuts_the_middle_of_the_widest_is_taken():
    queries = {
        "score_Q": np.array([0.9, 0.8, 0.3, 0.2]),
        "right_Q": np.array([True, False, True, False]),
        "identity_Q": np.array(["ada", "zoe", "bo", "yan"]),
        "known_Q": np.array([True, False, True, False]),
    }
    # (0.8, 0.9]: BAKS 1/2, BAUS 1; (0.2, 0.3]: BAKS 1, BAUS 1/2; (0.3, 0.8]: 1/2 and 1/2.
    narrow = choose_threshold(**queries, smallest=0.0, largest=1.0)
    assert narrow.geo_mean == pytest.approx(math.sqrt(1 / 2))
    wider = choose_threshold(**queries | {"score_Q": np.array([0.9, 0.6, 0.3, 0.2])}, smallest=0.0, largest=1.0)
    assert wider.value == pytest.approx(0.75)
    lower = choose_threshold(**queries | {"score_Q": np.array([0.9, 0.8, 0.5, 0.1])}, smallest=0.0, largest=1.0)
    assert lower.value == pytest.approx(0.3)
    assert (lower.baks, lower.baus) == (1, 0.5)


def test_range_limits_are_respected_where_the_best_cut_lies_outside():
    queries = {
        "score_Q": np.array([0.9, 0.7]),
        "right_Q": np.array([True, False]),
        "identity_Q": np.array(["ada", "zoe"]),
        "known_Q": np.array([True, False]),
    }
    assert choose_threshold(**queries, smallest=0.05, largest=0.95).value == pytest.approx(0.8)
    below = choose_threshold(**queries, smallest=0.05, largest=0.6)
    assert 0.05 <= below.value <= 0.6
    assert (below.baks, below.baus, below.geo_mean) == (1, 0, 0)
    assert choose_threshold(**queries, smallest=0.05, largest=0.75).value == pytest.approx(0.725)
    assert choose_threshold(**queries, smallest=0.85, largest=0.95).value == pytest.approx(0.875)


@pytest.mark.parametrize("known", [True, False])
def test_without_known_or_without_new_queries_all_is_nan(known):
    chosen = choose_threshold(
        np.array([0.3, 0.6]),
        np.array([known, known]),
        np.array(["ada", "bo"]),
        np.array([known, known]),
        smallest=0.05,
        largest=0.95,
    )
    assert np.isnan([chosen.value, chosen.baks, chosen.baus, chosen.geo_mean]).all()


def test_a_score_equal_to_the_threshold_is_named():
    named = name_queries(np.array(["ada", "bo", "cy"]), np.array([0.5, 0.4999, 0.6]), np.array([0.5, 0.5, 0.7]))
    assert named.tolist() == ["ada", NEW, NEW]


def test_candidates_are_ranked_by_probability_then_cosine_unscored_last():
    probability_QB = np.array([[0.5, np.nan, 0.5, 0.7, 0.0, np.nan]])
    cosine_QB = np.array([[0.1, 0.9, 0.3, -0.4, -0.9, np.nan]])
    assert rank_candidates(probability_QB, cosine_QB).tolist() == [[3, 2, 0, 4, 1, 5]]


def test_best_identity_breaks_ties_by_cosine():
    probability_QB = np.array([[0.8, 0.8, 0.8], [0.2, 0.9, np.nan]])
    cosine_QB = np.array([[0.1, 0.6, 0.3], [0.99, 0.1, 1.0]])
    identity_QB = np.array([["ada", "bo", "cy"], ["ada", "bo", "cy"]], dtype=object)
    identity_Q, score_Q = best_identity(probability_QB, cosine_QB, identity_QB)
    assert identity_Q.tolist() == ["bo", "bo"]
    assert score_Q.tolist() == [0.8, 0.9]


def test_best_identity_is_that_of_the_largest_probability_over_its_images():
    rng = np.random.default_rng(0)
    probability_QB, identity_QB = rng.random((50, 9)), rng.integers(0, 4, (50, 9)).astype(str).astype(object)
    identity_Q, score_Q = best_identity(probability_QB, rng.random((50, 9)), identity_QB)
    for query in range(50):
        best_of = {name: probability_QB[query][identity_QB[query] == name].max() for name in set(identity_QB[query])}
        assert identity_Q[query] == max(best_of, key=best_of.get)
        assert score_Q[query] == max(best_of.values())


def test_a_query_without_any_scored_candidate_is_new_at_every_threshold():
    identity_Q, score_Q = best_identity(
        np.full((1, 2), np.nan), np.array([[np.nan, 0.4]]), np.array([[None, "ada"]], dtype=object)
    )
    assert identity_Q.tolist() == [NEW]
    assert score_Q.tolist() == [0]
    assert [name_queries(identity_Q, score_Q, np.array([threshold]))[0] for threshold in (0.0, 0.5)] == [NEW, NEW]
