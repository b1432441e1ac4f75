"""BAKS, BAUS, GEO_MEAN by hand and against loops; their aggregates, undefined cases and bootstrap intervals."""

import math

import numpy as np
import pytest

from reid_core.metrics import (
    NEW,
    Shares,
    baks,
    baus,
    bootstrap,
    bootstrap_competition_mean,
    bootstrap_mean_of_groups,
    bootstrap_means,
    competition_mean,
    compute_shares,
    geo_mean,
    interval,
    mean_of_groups,
    pool,
    summarise,
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


def test_bootstrap_spread_is_the_standard_error():
    share_K = np.random.default_rng(2).random(50)
    draws_R = bootstrap_means(share_K, resamples=20_000, seed=0)
    assert draws_R.mean() == pytest.approx(share_K.mean(), abs=0.002)
    assert draws_R.std() == pytest.approx(share_K.std() / math.sqrt(50), rel=0.03)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(300):
        shares = Shares(rng.binomial(1, 0.6, 60).astype(float), rng.binomial(1, 0.8, 60).astype(float))
        low, high = interval(bootstrap(shares, resamples=200).geo_mean())
        covered.append(low <= math.sqrt(0.6 * 0.8) <= high)
    assert 0.89 < np.mean(covered) < 0.985


def test_degenerate_intervals():
    perfect = Shares(np.ones(4), np.ones(4))
    assert interval(bootstrap(perfect).geo_mean()) == (1, 1)
    single = bootstrap(Shares(np.array([0.5]), np.array([0.5])))  # nothing to resample
    assert interval(single.geo_mean()) == (0.5, 0.5)
    assert np.isnan(interval(bootstrap(Shares(np.ones(4), NOTHING)).geo_mean())).all()
    assert np.isnan(interval(bootstrap_mean_of_groups({"pig": Shares(np.ones(4), NOTHING)}))).all()


def test_interval_of_the_mean_leaves_undefined_groups_out():
    rng = np.random.default_rng(4)
    cow = Shares(rng.random(10), rng.random(10))
    alone = bootstrap_mean_of_groups({"cow": cow}, resamples=50)
    with_pig = bootstrap_mean_of_groups({"cow": cow, "pig": Shares(np.ones(3), NOTHING)}, resamples=50)
    assert alone.std() > 0
    assert with_pig.tolist() == alone.tolist()


def test_interval_of_the_competition_s_mean_counts_undefined_groups_as_zero():
    rng = np.random.default_rng(5)
    cow, dog = (Shares(rng.random(10), rng.random(10)) for _ in range(2))
    groups = {"cow": cow, "dog": dog, "pig": Shares(np.ones(3), NOTHING)}
    draws = bootstrap_competition_mean(groups, resamples=50)
    assert draws.std() > 0
    assert draws == pytest.approx(2 / 3 * bootstrap_mean_of_groups(groups, resamples=50))


def test_summary_holds_every_metric_between_its_bounds():
    rng = np.random.default_rng(6)
    groups = {name: Shares(rng.random(12), rng.random(9)) for name in ("cow", "dog")}
    metrics = summarise(groups)
    assert metrics["baks.dog"] == pytest.approx(groups["dog"].known_K.mean())
    assert metrics["pooled_baks"] == pytest.approx(np.mean([groups["cow"].known_K, groups["dog"].known_K]))
    assert metrics["pooled_baus"] == pytest.approx(np.mean([groups["cow"].new_K, groups["dog"].new_K]))
    assert metrics["pooled"] == pytest.approx(math.sqrt(metrics["pooled_baks"] * metrics["pooled_baus"]))
    names = [f"{name}.{group}" for name in ("baks", "baus", "geo_mean") for group in groups]
    names += ["mean_of_groups", "pooled", "pooled_baks", "pooled_baus", "competition"]
    assert len(metrics) == 3 * len(names)
    for name in names:
        first, dot, group = name.partition(".")
        assert metrics[f"{first}_low{dot}{group}"] < metrics[name] < metrics[f"{first}_high{dot}{group}"], name
    # More identities, a narrower interval: the pooled one has those of both groups.
    widths = [
        metrics[f"{name}_high{end}"] - metrics[f"{name}_low{end}"]
        for name, end in (("pooled_baks", ""), ("baks", ".cow"))
    ]
    assert widths[0] < widths[1]


def test_without_any_group_every_aggregate_is_undefined():
    metrics = summarise({})
    assert len(metrics) == 15
    assert np.isnan(list(metrics.values())).all()
