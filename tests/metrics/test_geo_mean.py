"""BAKS, BAUS, GEO_MEAN by hand and against loops; their aggregates and undefined cases."""

import math

import numpy as np
import pytest

from reid_core.data.animals import NEW
from reid_core.metrics.geo_mean import (
    Shares,
    baks,
    baus,
    competition_mean,
    compute_shares,
    geo_mean,
    mean_of_groups,
    pool,
)

NOTHING = np.array([])


def slow_balanced(answers: list[str], truths: list[str], chosen: list[bool], wanted: str | None) -> float:
    """Mean over identities of the share of right answers, query by query; `wanted` None: the identity itself."""
    hits: dict[str, list[bool]] = {}
    for given, truth, is_chosen in zip(answers, truths, chosen, strict=True):
        if is_chosen:
            hits.setdefault(truth, []).append(given == (wanted or truth))
    return sum(sum(right) / len(right) for right in hits.values()) / len(hits) if hits else math.nan


def random_answers(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers, truths and knownness of up to 60 queries; animals 0 … 5 are known, 6 … 9 are new."""
    rng = np.random.default_rng(seed)
    animal_Q = rng.integers(0, 10, size=rng.integers(1, 60))
    names = np.array([f"animal {i}" for i in range(6)] + [NEW], dtype=object)
    answer_Q = np.where(
        rng.random(len(animal_Q)) < 0.4, names[np.minimum(animal_Q, 6)], rng.choice(names, len(animal_Q))
    )
    truth_Q = np.array([f"animal {i}" for i in animal_Q], dtype=object)
    return answer_Q, truth_Q, animal_Q < 6


def test_metrics_by_hand():
    truth = ["ada", "ada", "bo", "cy", "cy", "cy", "yan", "zoe", "zoe"]
    answer = ["ada", NEW, "bo", "ada", "cy", "cy", NEW, NEW, "ada"]
    known = np.array([True] * 6 + [False] * 3)
    shares = compute_shares(np.array(answer, dtype=object), np.array(truth, dtype=object), known)
    assert shares.known_K == pytest.approx([1 / 2, 1, 2 / 3])  # ada, bo, cy
    assert shares.new_K == pytest.approx([1, 1 / 2])  # yan, zoe
    assert baks(shares) == pytest.approx(13 / 18)
    assert baus(shares) == pytest.approx(3 / 4)
    assert geo_mean(shares) == pytest.approx(math.sqrt(13 / 24))


@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_loops_over_queries(seed):
    answer_Q, truth_Q, known_Q = random_answers(seed)
    shares = compute_shares(answer_Q, truth_Q, known_Q)
    slow_baks = slow_balanced(list(answer_Q), list(truth_Q), list(known_Q), None)
    slow_baus = slow_balanced(list(answer_Q), list(truth_Q), list(~known_Q), NEW)
    assert baks(shares) == pytest.approx(slow_baks, nan_ok=True)
    assert baus(shares) == pytest.approx(slow_baus, nan_ok=True)
    assert geo_mean(shares) == pytest.approx(math.sqrt(slow_baks * slow_baus), nan_ok=True)


def test_order_of_queries_changes_nothing():
    answer_Q, truth_Q, known_Q = random_answers(3)
    order = np.random.default_rng(0).permutation(len(answer_Q))
    shares, shuffled = (
        compute_shares(answer_Q, truth_Q, known_Q),
        compute_shares(answer_Q[order], truth_Q[order], known_Q[order]),
    )
    assert shares.known_K.tolist() == shuffled.known_K.tolist()
    assert shares.new_K.tolist() == shuffled.new_K.tolist()


def test_repeating_a_query_changes_nothing():
    answer_Q, truth_Q, known_Q = random_answers(4)
    twice = np.repeat(np.arange(len(answer_Q)), 2)
    shares = compute_shares(answer_Q, truth_Q, known_Q)
    doubled = compute_shares(answer_Q[twice], truth_Q[twice], known_Q[twice])
    assert geo_mean(doubled) == pytest.approx(geo_mean(shares))


def test_undefined_metrics_are_nan():
    assert math.isnan(baks(Shares(NOTHING, np.array([1.0]))))
    assert baus(Shares(NOTHING, np.array([1.0]))) == 1
    assert math.isnan(baus(Shares(np.array([1.0]), NOTHING)))
    assert math.isnan(geo_mean(Shares(NOTHING, np.array([1.0]))))
    assert math.isnan(mean_of_groups({"cow": Shares(NOTHING, NOTHING)}))
    assert math.isnan(geo_mean(pool({"cow": Shares(NOTHING, NOTHING)})))


def test_one_side_at_zero_is_zero_not_nan():
    assert geo_mean(Shares(np.array([0.0]), np.array([1.0]))) == 0
    assert geo_mean(Shares(np.array([1.0]), np.array([0.0]))) == 0


def test_pooled_mean_and_competition_differ_as_they_should():
    groups = {
        "cow": Shares(np.array([1.0, 0.0]), np.array([1.0])),  # sqrt(1/2)
        "dog": Shares(np.array([0.5]), np.array([0.5, 0.5])),  # 1/2
        "pig": Shares(np.array([1.0]), NOTHING),  # undefined
    }
    assert mean_of_groups(groups) == pytest.approx((math.sqrt(1 / 2) + 1 / 2) / 2)
    assert competition_mean(groups) == pytest.approx((math.sqrt(1 / 2) + 1 / 2 + 0) / 3)
    assert geo_mean(pool(groups)) == pytest.approx(math.sqrt((1 + 0 + 0.5 + 1) / 4 * (1 + 0.5 + 0.5) / 3))
