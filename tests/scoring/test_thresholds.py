"""Thresholds and their curves against every cut and every query, one by one."""

import math

import numpy as np
import pytest

from reid_core.data.animals import NEW
from reid_core.scoring.thresholds import ScoredQueries, choose_threshold, name_queries, threshold_curve


def slow_metrics(threshold: float, score_Q, right_Q, identity_Q, known_Q) -> tuple[float, float, float]:
    """BAKS, BAUS, GEO_MEAN at one threshold, query by query."""
    recalls: dict[tuple[bool, str], list[bool]] = {}
    for score, right, identity, known in zip(score_Q, right_Q, identity_Q, known_Q, strict=True):
        named = score >= threshold
        recalls.setdefault((bool(known), identity), []).append(bool(named and right) if known else not named)
    sides = [[np.mean(hits) for (known, _), hits in recalls.items() if known is side] for side in (True, False)]
    baks, baus = map(np.mean, sides)
    return float(baks), float(baus), math.sqrt(baks * baus)


def random_queries(seed: int) -> ScoredQueries:
    """Up to 40 queries; scores of some seeds lie on a coarse grid, so that they tie with each other and with ends."""
    rng = np.random.default_rng(seed)
    num_queries = int(rng.integers(2, 40))
    animal_Q = rng.integers(0, 8, num_queries)
    animal_Q[:2] = 0, 7  # one known and one new at least
    known_Q = animal_Q < 5
    score_Q = np.clip(rng.normal(np.where(known_Q, 0.6, 0.4), 0.25), 0, 1)
    if seed % 2:
        score_Q = np.round(score_Q * 10) / 10
    return ScoredQueries(
        score_Q=score_Q.astype(np.float32 if seed % 3 else np.float64),
        right_Q=known_Q & (rng.random(num_queries) < 0.7),
        identity_Q=np.array([f"animal {i}" for i in animal_Q], dtype=object),
        known_Q=known_Q,
    )


def cuts(score_Q: np.ndarray, smallest: float, largest: float) -> np.ndarray:
    """A threshold in every interval between scores, and all ends, within the range."""
    edges = np.unique(np.append(score_Q.astype(float), [smallest, largest]))
    all_cuts = np.concatenate([edges, (edges[1:] + edges[:-1]) / 2])
    return all_cuts[(all_cuts >= smallest) & (all_cuts <= largest)]


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.05, 0.95), (0.3, 0.5), (0.4, 0.4)])
@pytest.mark.parametrize("seed", range(12))
def test_threshold_is_the_best_of_all_cuts_and_of_a_fine_grid(seed, limits):
    queries, (smallest, largest) = random_queries(seed), limits
    chosen = choose_threshold(queries, smallest=smallest, largest=largest)
    tried = np.concatenate([cuts(queries.score_Q, *limits), np.linspace(smallest, largest, 101)])
    best = max(slow_metrics(threshold, *queries)[2] for threshold in tried)
    assert chosen.geo_mean == pytest.approx(best, abs=1e-9)
    assert smallest <= chosen.value <= largest
    assert (chosen.baks, chosen.baus, chosen.geo_mean) == pytest.approx(slow_metrics(chosen.value, *queries))


def test_of_equally_good_cuts_the_middle_of_the_widest_is_taken():
    queries = ScoredQueries(
        score_Q=np.array([0.9, 0.8, 0.3, 0.2]),
        right_Q=np.array([True, False, True, False]),
        identity_Q=np.array(["ada", "zoe", "bo", "yan"]),
        known_Q=np.array([True, False, True, False]),
    )
    # (0.8, 0.9]: BAKS 1/2, BAUS 1; (0.2, 0.3]: BAKS 1, BAUS 1/2; (0.3, 0.8]: 1/2 and 1/2.
    narrow = choose_threshold(queries, smallest=0.0, largest=1.0)
    assert narrow.geo_mean == pytest.approx(math.sqrt(1 / 2))
    wider = choose_threshold(queries._replace(score_Q=np.array([0.9, 0.6, 0.3, 0.2])), smallest=0.0, largest=1.0)
    assert wider.value == pytest.approx(0.75)
    lower = choose_threshold(queries._replace(score_Q=np.array([0.9, 0.8, 0.5, 0.1])), smallest=0.0, largest=1.0)
    assert lower.value == pytest.approx(0.3)
    assert (lower.baks, lower.baus) == (1, 0.5)


def test_range_limits_are_respected_where_the_best_cut_lies_outside():
    queries = ScoredQueries(
        score_Q=np.array([0.9, 0.7]),
        right_Q=np.array([True, False]),
        identity_Q=np.array(["ada", "zoe"]),
        known_Q=np.array([True, False]),
    )
    assert choose_threshold(queries, smallest=0.05, largest=0.95).value == pytest.approx(0.8)
    below = choose_threshold(queries, smallest=0.05, largest=0.6)
    assert 0.05 <= below.value <= 0.6
    assert (below.baks, below.baus, below.geo_mean) == (1, 0, 0)
    assert choose_threshold(queries, smallest=0.05, largest=0.75).value == pytest.approx(0.725)
    assert choose_threshold(queries, smallest=0.85, largest=0.95).value == pytest.approx(0.875)


@pytest.mark.parametrize("known", [True, False])
def test_without_known_or_without_new_queries_all_is_nan(known):
    known_Q = np.array([known, known])
    queries = ScoredQueries(np.array([0.3, 0.6]), known_Q, np.array(["ada", "bo"]), known_Q)
    chosen = choose_threshold(queries, smallest=0.05, largest=0.95)
    assert np.isnan([chosen.value, chosen.baks, chosen.baus, chosen.geo_mean]).all()


def test_a_score_equal_to_the_threshold_is_named():
    named = name_queries(np.array(["ada", "bo", "cy"]), np.array([0.5, 0.4999, 0.6]), np.array([0.5, 0.5, 0.7]))
    assert named.tolist() == ["ada", NEW, NEW]


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.05, 0.95), (0.3, 0.5)])
@pytest.mark.parametrize("seed", range(6))
def test_grid_takes_the_best_of_the_paper_s_thresholds(seed, limits):
    queries, (smallest, largest) = random_queries(seed), limits
    chosen = choose_threshold(queries, smallest=smallest, largest=largest, search="grid")
    grid = [step / 20 for step in range(1, 20) if smallest <= step / 20 <= largest]
    assert chosen.value in grid
    assert chosen.geo_mean == pytest.approx(max(slow_metrics(threshold, *queries)[2] for threshold in grid))
    assert (chosen.baks, chosen.baus, chosen.geo_mean) == pytest.approx(slow_metrics(chosen.value, *queries))
    assert chosen.geo_mean <= choose_threshold(queries, smallest=smallest, largest=largest).geo_mean + 1e-12


def test_of_equally_good_grid_values_the_middle_of_the_longest_run_is_taken():
    queries = ScoredQueries(
        score_Q=np.array([0.91, 0.83, 0.41, 0.21]),
        right_Q=np.array([True, False, True, False]),
        identity_Q=np.array(["ada", "zoe", "bo", "yan"]),
        known_Q=np.array([True, False, True, False]),
    )
    # Equally good: 0.85, 0.90 (BAKS 1/2, BAUS 1) and 0.25 … 0.40 (BAKS 1, BAUS 1/2); of four the lower middle.
    assert choose_threshold(queries, smallest=0.05, largest=0.95, search="grid").value == 0.3
    assert choose_threshold(queries, smallest=0.35, largest=0.95, search="grid").value == 0.35
    assert choose_threshold(queries, smallest=0.45, largest=0.95, search="grid").value == 0.85
    assert choose_threshold(queries, smallest=0.26, largest=0.28, search="grid").value == pytest.approx(0.27)


def test_grid_without_new_queries_is_undefined():
    queries = ScoredQueries(np.array([0.3]), np.array([True]), np.array(["ada"]), np.array([True]))
    chosen = choose_threshold(queries, smallest=0.05, largest=0.95, search="grid")
    assert np.isnan([chosen.value, chosen.geo_mean]).all()


@pytest.mark.parametrize("seed", range(6))
def test_curve_equals_the_slow_metrics_at_each_threshold(seed):
    queries = random_queries(seed)
    thresholds_T = np.array([0.5, 0.0, 0.1, 0.77, 1.0])
    curves = threshold_curve(queries, thresholds_T)
    for column, threshold in zip(np.transpose(curves), thresholds_T, strict=True):
        assert column.tolist() == pytest.approx(slow_metrics(threshold, *queries))


def test_curve_without_new_queries_has_baks_only():
    right_Q, known_Q = np.array([True, False]), np.array([True, True])
    queries = ScoredQueries(np.array([0.3, 0.6]), right_Q, np.array(["ada", "bo"]), known_Q)
    baks_T, baus_T, geo_T = threshold_curve(queries, np.array([0.2, 0.5]))
    assert baks_T.tolist() == [0.5, 0]
    assert np.isnan([baus_T, geo_T]).all()
