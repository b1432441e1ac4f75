"""Thresholds and aggregation against brute force, and the answers that follow from them."""

import math

import numpy as np
import pytest

from reid_core.config.parameters import PredictConfig
from reid_core.data.animals import NEW
from reid_core.scoring.ranking import aggregate, rank_candidates, rank_identities
from reid_core.scoring.thresholds import choose_threshold, name_queries, threshold_curve

MAX = PredictConfig(aggregate="max")


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


def test_max_breaks_ties_by_cosine():
    probability_QB = np.array([[0.8, 0.8, 0.8], [0.2, 0.9, np.nan]])
    cosine_QB = np.array([[0.1, 0.6, 0.3], [0.99, 0.1, 1.0]])
    identity_QB = np.array([["ada", "bo", "cy"], ["ada", "bo", "cy"]], dtype=object)
    identity_Q, score_Q = aggregate(probability_QB, cosine_QB, identity_QB, MAX)
    assert identity_Q.tolist() == ["bo", "bo"]
    assert score_Q.tolist() == [0.8, 0.9]


def test_max_takes_the_identity_of_the_largest_probability_over_its_images():
    rng = np.random.default_rng(0)
    probability_QB, identity_QB = rng.random((50, 9)), rng.integers(0, 4, (50, 9)).astype(str).astype(object)
    identity_Q, score_Q = aggregate(probability_QB, rng.random((50, 9)), identity_QB, MAX)
    for query in range(50):
        best_of = {name: probability_QB[query][identity_QB[query] == name].max() for name in set(identity_QB[query])}
        assert identity_Q[query] == max(best_of, key=best_of.get)
        assert score_Q[query] == max(best_of.values())


@pytest.mark.parametrize("kind", ["max", "mean", "mean_top", "vote"])
def test_a_query_without_any_scored_candidate_is_new_at_every_threshold(kind):
    identity_Q, score_Q = aggregate(
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
        identity_Q, score_Q = aggregate(probability_QB, np.zeros((1, 6)), identity_QB, config)
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
    identity_Q, score_Q = aggregate(probability_QB, cosine_QB, identity_QB, config)
    for query in range(120):
        expected = slow_aggregate(probability_QB[query], cosine_QB[query], identity_QB[query], config)
        assert (identity_Q[query], score_Q[query]) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize("kind", ["max", "mean", "mean_top", "vote"])
def test_order_of_candidates_changes_nothing(kind):
    rng = np.random.default_rng(5)
    arrays = rng.random((40, 8)), rng.random((40, 8)), rng.integers(0, 3, (40, 8)).astype(str).astype(object)
    config, order = PredictConfig(aggregate=kind), rng.permutation(8)
    identity_Q, score_Q = aggregate(*arrays, config)
    shuffled_Q, again_Q = aggregate(*(array[:, order] for array in arrays), config)
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


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.05, 0.95), (0.3, 0.5)])
@pytest.mark.parametrize("seed", range(6))
def test_grid_takes_the_best_of_the_paper_s_thresholds(seed, limits):
    queries, (smallest, largest) = random_queries(seed), limits
    chosen = choose_threshold(**queries, smallest=smallest, largest=largest, search="grid")
    grid = [step / 20 for step in range(1, 20) if smallest <= step / 20 <= largest]
    assert chosen.value in grid
    assert chosen.geo_mean == pytest.approx(max(slow_metrics(threshold, **queries)[2] for threshold in grid))
    assert (chosen.baks, chosen.baus, chosen.geo_mean) == pytest.approx(slow_metrics(chosen.value, **queries))
    assert chosen.geo_mean <= choose_threshold(**queries, smallest=smallest, largest=largest).geo_mean + 1e-12


def test_of_equally_good_grid_values_the_middle_of_the_longest_run_is_taken():
    queries = {
        "score_Q": np.array([0.91, 0.83, 0.41, 0.21]),
        "right_Q": np.array([True, False, True, False]),
        "identity_Q": np.array(["ada", "zoe", "bo", "yan"]),
        "known_Q": np.array([True, False, True, False]),
    }
    # Equally good: 0.85, 0.90 (BAKS 1/2, BAUS 1) and 0.25 … 0.40 (BAKS 1, BAUS 1/2); of four the lower middle.
    assert choose_threshold(**queries, smallest=0.05, largest=0.95, search="grid").value == 0.3
    assert choose_threshold(**queries, smallest=0.35, largest=0.95, search="grid").value == 0.35
    assert choose_threshold(**queries, smallest=0.45, largest=0.95, search="grid").value == 0.85
    assert choose_threshold(**queries, smallest=0.26, largest=0.28, search="grid").value == pytest.approx(0.27)


def test_grid_without_new_queries_is_undefined():
    queries = np.array([0.3]), np.array([True]), np.array(["ada"]), np.array([True])
    chosen = choose_threshold(*queries, smallest=0.05, largest=0.95, search="grid")
    assert np.isnan([chosen.value, chosen.geo_mean]).all()


@pytest.mark.parametrize("seed", range(6))
def test_curve_equals_the_slow_metrics_at_each_threshold(seed):
    queries = random_queries(seed)
    thresholds_T = np.array([0.5, 0.0, 0.1, 0.77, 1.0])
    curves = threshold_curve(**queries, thresholds_T=thresholds_T)
    for column, threshold in zip(np.transpose(curves), thresholds_T, strict=True):
        assert column.tolist() == pytest.approx(slow_metrics(threshold, **queries))


def test_curve_without_new_queries_has_baks_only():
    queries = np.array([0.3, 0.6]), np.array([True, False]), np.array(["ada", "bo"]), np.array([True, True])
    baks_T, baus_T, geo_T = threshold_curve(*queries, np.array([0.2, 0.5]))
    assert baks_T.tolist() == [0.5, 0]
    assert np.isnan([baus_T, geo_T]).all()
