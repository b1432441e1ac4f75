"""Intervals over identities: by hand, against draws one at a time, and how often they cover the truth."""

import math

import numpy as np
import pytest
from scipy.stats import beta

from reid_core.metrics import intervals
from reid_core.metrics.geo_mean import Shares, geo_mean
from reid_core.metrics.intervals import (
    UNDEFINED,
    Estimate,
    bootstrap,
    bootstrap_mean_of_groups,
    bootstrap_means,
    estimate_geo_mean,
    estimate_mean,
    estimate_share,
    interval,
)
from reid_core.metrics.summary import summarise

NOTHING = np.array([])


def test_bootstrap_compares_two_models_in_pairs():
    share_K = np.random.default_rng(0).random(30) / 2
    one, other = (bootstrap_means(share, resamples=200, seed=7) for share in (share_K, share_K + 0.25))
    assert one.std() > 0.01
    assert other - one == pytest.approx(np.full(200, 0.25))
    assert not np.array_equal(one, bootstrap_means(share_K, resamples=200, seed=8))


def test_bootstrap_draws_known_and_new_independently():
    share_K = np.random.default_rng(1).random(25)
    seeds = [bootstrap_means(share_K, resamples=4000, seed=seed) for seed in (0, 1)]
    assert abs(np.corrcoef(*seeds)[0, 1]) < 0.06
    squared = bootstrap(Shares(share_K, share_K), resamples=4000).geo_mean() ** 2
    assert squared == pytest.approx(seeds[0] * seeds[1])


@pytest.mark.parametrize(("num_identities", "student"), [(3, 4.302653), (5, 2.776445), (50, 2.009575)])
def test_bootstrap_spread_is_that_of_student_s_interval(num_identities, student):
    share_K = 0.45 + np.random.default_rng(2).random(num_identities) / 10  # far from 0 and 1: nothing is cut off
    draws_R = bootstrap_means(share_K, resamples=20_000, seed=0)
    half_width = student * share_K.std(ddof=1) / math.sqrt(num_identities)  # of the t-interval
    assert draws_R.mean() == pytest.approx(share_K.mean(), abs=half_width / 50)
    assert draws_R.std() == pytest.approx(half_width / 1.959964, rel=0.03)


def test_bootstrap_stays_within_0_and_1():
    draws_R = bootstrap_means(np.array([0.0, 1.0, 1.0]), resamples=500, seed=0)
    assert (draws_R.min(), draws_R.max()) == (0, 1)


def test_bootstrap_of_one_identity_has_no_spread():
    assert bootstrap_means(np.array([0.25]), resamples=5, seed=0).tolist() == [0.25] * 5


@pytest.mark.parametrize(("right", "wrong"), [(3, 0), (0, 4), (2, 1), (9, 3), (50, 10)])
def test_interval_of_shares_of_0_and_1_is_jeffreys(right, wrong):
    value, low, high = estimate_share(np.repeat([1.0, 0.0], [right, wrong]))
    exact = beta.ppf([0.025, 0.975], right + 0.5, wrong + 0.5)
    assert value == pytest.approx(right / (right + wrong))
    assert low == pytest.approx(exact[0] if right else 0)
    assert high == pytest.approx(exact[1] if wrong else 1)


@pytest.mark.parametrize("share_K", [[0.5, 0.9, 1.0, 0.75], [0.2, 0.4, 0.3], [0.25], np.linspace(0.4, 1, 20)])
def test_interval_of_a_share_is_that_of_resamples_drawn_one_at_a_time(share_K):
    rng, num_identities = np.random.default_rng(0), len(share_K)
    means = []
    for _ in range(20_000):
        weight_K = rng.dirichlet([1] * num_identities + [0.5, 0.5])
        means.append(weight_K @ [*share_K, 1, 0])
    size = np.mean(means) * (1 - np.mean(means)) / np.var(means) - 1
    same_moments = beta.ppf([0.025, 0.975], size * np.mean(means), size * (1 - np.mean(means)))
    value, low, high = estimate_share(np.array(share_K))
    assert value == pytest.approx(np.mean(share_K))
    assert [low, high] == pytest.approx(list(same_moments), abs=0.005)
    # The resamples themselves are skewed a little more than Beta, the more the fewer identities there are.
    assert [low, high] == pytest.approx(list(np.quantile(means, [0.025, 0.975])), abs=0.15 / num_identities + 0.01)


def test_memory_for_draws_changes_no_result(monkeypatch):
    share_K = np.random.default_rng(3).random(40)
    draws_R = bootstrap_means(share_K, resamples=300, seed=0)
    monkeypatch.setattr(intervals, "DRAWS_HELD", 40 * 7)  # 7 resamples at once, and a smaller last block
    assert bootstrap_means(share_K, resamples=300, seed=0).tolist() == draws_R.tolist()


def coverage_of(truth: float, estimates: list[Estimate]) -> float:
    return float(np.mean([low <= truth <= high for _, low, high in estimates]))


def draw_shares(rng: np.random.Generator, num_identities: int, mean: float) -> np.ndarray:
    """Shares of 1 to 6 images each, of animals whose rates differ by a Beta distribution."""
    images_K = rng.integers(1, 7, num_identities)
    return rng.binomial(images_K, rng.beta(4 * mean, 4 * (1 - mean), num_identities)) / images_K


def test_intervals_cover_the_truth_about_as_often_as_they_say_with_few_identities():
    rng = np.random.default_rng(4)
    few, groups = [], []
    for _ in range(400):
        known = [estimate_share(draw_shares(rng, 30, 0.6)) for _ in range(3)]
        new = [estimate_share(draw_shares(rng, 4, 0.9)) for _ in range(3)]
        few += new
        groups.append(estimate_mean([estimate_geo_mean(*both) for both in zip(known, new, strict=True)], 3))
    assert 0.93 < coverage_of(0.9, few) < 0.985  # the plain bootstrap covers 0.65 of these
    assert 0.92 < coverage_of(math.sqrt(0.6 * 0.9), groups) < 0.985


def test_paired_difference_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(300):
        common_K = rng.beta(2, 2, 8)
        one_K, other_K = (rng.binomial(6, np.clip(common_K + shift, 0, 1)) / 6 for shift in (0, 0))
        draws_R = [bootstrap_means(share_K, resamples=400, seed=1) for share_K in (one_K, other_K)]
        low, high = interval(draws_R[0] - draws_R[1])
        covered.append(low <= 0 <= high)
    assert 0.91 < np.mean(covered) < 0.99


def test_limits_of_geo_mean_by_hand():
    low, high = math.exp(-math.hypot(math.log(2), math.log(1.5)) / 2), math.exp(math.log(1.25) / 2)
    estimate = estimate_geo_mean(Estimate(0.8, 0.4, 1.0), Estimate(0.9, 0.6, 0.9))
    assert estimate == pytest.approx(math.sqrt(0.72) * np.array([1, low, high]))
    assert estimate_geo_mean(Estimate(0, 0, 0.25), Estimate(1, 0.6, 1)) == (0, 0, 0.5)
    assert np.isnan(estimate_geo_mean(Estimate(0, 0, 0.25), UNDEFINED)).all()


def test_limits_of_a_mean_by_hand():
    first, second = Estimate(0.5, 0.25, 0.75), Estimate(0.75, 0.5, 1.0)
    bias = (0.5 * (math.log(3) / 3.919928) ** 2 + 0.75 * (math.log(2) / 3.919928) ** 2) / 2  # half a variance, summed
    distance = math.hypot(0.25, 0.25)
    expected = (1.25, 1.25 - distance, 1.25 + distance + bias * (1 - math.sqrt(1 / 2)))
    assert estimate_mean([first, second], 2) == pytest.approx(np.array(expected) / 2)
    assert estimate_mean([first, second], 3) == pytest.approx(np.array(expected) / 3)  # a third group counts 0
    assert estimate_mean([first], 1) == pytest.approx(first)
    never_right = Estimate(0, 0, 0.4)  # no logarithm, no bias
    assert estimate_mean([never_right, never_right], 2) == pytest.approx((0, 0, 0.4 / math.sqrt(2)))


@pytest.mark.parametrize("seed", range(5))
def test_limits_stay_within_0_and_1_and_hold_the_value(seed):
    rng = np.random.default_rng(seed)
    parts = []
    for size in (1, 2, 3, 8):
        shares = Shares(rng.integers(0, 3, size) / 2, rng.integers(0, 3, 4) / 2)
        parts.append(estimate_geo_mean(estimate_share(shares.known_K), estimate_share(shares.new_K)))
        assert parts[-1].value == pytest.approx(geo_mean(shares))
    for value, low, high in [*parts, estimate_mean(parts, 4)]:
        assert 0 <= low <= value <= high <= 1
        assert high > low


def test_degenerate_samples_have_honest_intervals():
    perfect = summarise({"cow": Shares(np.ones(3), np.ones(3))})
    assert perfect["baus.cow"] == perfect["baus_high.cow"] == perfect["geo_mean_high.cow"] == 1
    assert 0.4 < perfect["baus_low.cow"] < 0.55  # with a rate of one half, 3 of 3 are right in one of eight samples
    single = estimate_share(np.array([0.5]))
    assert single.low < 0.2
    assert single.high > 0.8
    assert np.isnan(estimate_share(NOTHING)).all()
    assert np.isnan(estimate_mean([], 3)).all()
    assert np.isnan(interval(bootstrap(Shares(np.ones(4), NOTHING)).geo_mean())).all()
    assert np.isnan(interval(bootstrap_mean_of_groups({"pig": Shares(np.ones(4), NOTHING)}))).all()


def test_interval_of_the_mean_leaves_undefined_groups_out():
    rng = np.random.default_rng(4)
    cow = Shares(rng.random(10), rng.random(10))
    pig = Shares(np.ones(3), NOTHING)
    alone = bootstrap_mean_of_groups({"cow": cow}, resamples=50)
    assert alone.std() > 0
    assert bootstrap_mean_of_groups({"cow": cow, "pig": pig}, resamples=50).tolist() == alone.tolist()
    metrics = summarise({"cow": cow, "pig": pig})
    for end in ("", "_low", "_high"):
        assert metrics[f"mean_of_groups{end}"] == pytest.approx(metrics[f"geo_mean{end}.cow"])


def test_interval_of_the_competition_s_mean_counts_undefined_groups_as_zero():
    rng = np.random.default_rng(5)
    cow, dog = (Shares(rng.random(10), rng.random(10)) for _ in range(2))
    metrics = summarise({"cow": cow, "dog": dog, "pig": Shares(np.ones(3), NOTHING)})
    for end in ("", "_low", "_high"):
        assert metrics[f"competition{end}"] == pytest.approx(2 / 3 * metrics[f"mean_of_groups{end}"])
    nothing = summarise({"pig": Shares(np.ones(3), NOTHING)})
    assert nothing["competition"] == 0
    assert np.isnan([nothing["competition_low"], nothing["mean_of_groups"]]).all()
