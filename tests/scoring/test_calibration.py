"""Isotonic and logistic calibration against their definitions; undefined cases; which group has its own fit."""

import dataclasses
import json

import numpy as np
import pytest

from reid_core.scoring.calibration import (
    MIN_POSITIVES,
    POOLED,
    Calibrator,
    LogisticCalibrator,
    fit_isotonic,
    fit_logistic,
    fit_per_group,
    predict_per_group,
    read_calibrator,
)


def slow_isotonic(score_P: np.ndarray, same_P: np.ndarray) -> dict[float, float]:
    """Isotonic regression by its definition: the largest, over starts, of the smallest mean, over ends."""
    levels = sorted(set(score_P.tolist()))
    at = [same_P[score_P == level].astype(float) for level in levels]
    return {
        level: max(min(np.concatenate(at[a : b + 1]).mean() for b in range(i, len(at))) for a in range(i + 1))
        for i, level in enumerate(levels)
    }


def random_pairs(seed: int, num_pairs: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, more often of the same animal where they are high."""
    rng = np.random.default_rng(seed)
    score_P = rng.integers(0, 15, num_pairs).astype(float)
    return score_P, rng.random(num_pairs) < score_P / 15


@pytest.mark.parametrize("seed", range(8))
def test_fit_equals_the_definition_of_isotonic_regression(seed):
    score_P, same_P = random_pairs(seed)
    calibrator = fit_isotonic(score_P, same_P)
    for level, probability in slow_isotonic(score_P, same_P).items():
        assert calibrator.predict(np.array([level]))[0] == pytest.approx(probability, abs=1e-6)


def test_fit_is_monotone_bounded_and_right_on_average():
    score_P, same_P = random_pairs(9, num_pairs=400)
    calibrator = fit_isotonic(score_P, same_P)
    probability = calibrator.predict(np.linspace(-5, 20, 500))
    assert (np.diff(probability) >= 0).all()
    assert 0 <= probability.min() < probability.max() <= 1
    assert calibrator.predict(score_P).mean() == pytest.approx(same_P.mean(), abs=1e-6)


def test_order_of_pairs_and_unscored_pairs_change_nothing():
    score_P, same_P = random_pairs(10)
    order = np.random.default_rng(0).permutation(len(score_P))
    with_nan = fit_isotonic(np.append(score_P[order], [np.nan, np.nan]), np.append(same_P[order], [True, False]))
    assert with_nan == fit_isotonic(score_P, same_P)


def test_between_knots_linear_outside_constant_unscored_unscored():
    calibrator = Calibrator((1.0, 3.0, 4.0), (0.1, 0.5, 0.9))
    predicted = calibrator.predict(np.array([[-7, 1, 2], [3.25, 99, np.nan]]))
    np.testing.assert_allclose(predicted, [[0.1, 0.1, 0.3], [0.6, 0.9, np.nan]], rtol=1e-6)


@pytest.mark.parametrize("fit", [fit_isotonic, fit_logistic])
@pytest.mark.parametrize(
    ("scores", "same", "expected"),
    [
        ([0.7], [True], 2 / 3),
        ([0.1, 0.5, 0.9], [False] * 3, 1 / 5),
        ([0.1, 0.5, 0.9], [True] * 3, 4 / 5),
        ([0.5] * 4, [True, True, True, False], 4 / 6),
        ([], [], 1 / 2),
        ([np.nan, np.nan], [True, False], 1 / 2),
    ],
)
def test_what_cannot_be_calibrated_is_laplaces_constant(fit, scores, same, expected):
    calibrator = fit(np.array(scores, dtype=float), np.array(same, dtype=bool))
    np.testing.assert_allclose(calibrator.predict(np.array([-1.0, 0.5, 30.0])), expected, rtol=1e-6)
    assert np.isnan(calibrator.predict(np.array([np.nan]))).all()


def test_only_a_group_with_enough_scored_positives_has_its_own_fit():
    def pairs(num_positives: int, num_unscored: int) -> tuple[np.ndarray, np.ndarray]:
        same_P = np.arange(num_positives + 10) < num_positives
        score_P = same_P + 0.1
        score_P[:num_unscored] = np.nan
        return score_P, same_P

    groups = {
        "enough": pairs(MIN_POSITIVES, 0),
        "too few": pairs(MIN_POSITIVES - 1, 0),
        "too few scored": pairs(MIN_POSITIVES + 4, 5),
    }
    score_P, same_P = (np.concatenate(column) for column in zip(*groups.values(), strict=True))
    group_P = np.repeat(list(groups), [len(score) for score, _ in groups.values()]).astype(object)
    assert set(fit_per_group(score_P, same_P, group_P)) == {POOLED, "enough"}


def test_pooled_fit_uses_all_groups_and_own_fit_only_its_own():
    rng = np.random.default_rng(1)
    score_P = rng.random(800)
    group_P = np.repeat(["cow", "pig"], 400).astype(object)
    same_P = np.where(group_P == "cow", score_P > 0.3, score_P > 0.7)
    calibrators = fit_per_group(score_P, same_P, group_P)
    assert calibrators["cow"] == fit_isotonic(score_P[:400], same_P[:400])
    assert calibrators["pig"] == fit_isotonic(score_P[400:], same_P[400:])
    assert calibrators[POOLED] == fit_isotonic(score_P, same_P)
    assert calibrators["cow"].predict(np.array([0.5])) == 1
    assert calibrators["pig"].predict(np.array([0.5])) == 0


def test_each_row_is_calibrated_by_its_group_else_by_the_pooled_fit():
    flat = {name: Calibrator((0.0,), (value,)) for name, value in {POOLED: 0.5, "cow": 0.25}.items()}
    score_QB = np.array([[1.0, np.nan], [1.0, 2.0], [1.0, 2.0]])
    probability_QB = predict_per_group(flat, score_QB, np.array(["cow", "pig", "cow"], dtype=object))
    np.testing.assert_array_equal(probability_QB, np.float32([[0.25, np.nan], [0.5, 0.5], [0.25, 0.25]]))


def logistic_pairs(num_pairs: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of matches whose log-odds of "same animal" are 0.1 · score - 3."""
    rng = np.random.default_rng(2)
    score_P = rng.uniform(0, 60, num_pairs)
    return score_P, rng.random(num_pairs) < 1 / (1 + np.exp(3 - 0.1 * score_P))


def test_logistic_fit_recovers_the_curve():
    fitted = fit_logistic(*logistic_pairs())
    assert fitted.slope == pytest.approx(0.1, rel=0.1)
    assert fitted.intercept == pytest.approx(-3, rel=0.1)
    # The intercept is not regularised, so the mean probability is the share of positives.
    score_P, same_P = logistic_pairs()
    assert fitted.predict(score_P).mean() == pytest.approx(same_P.mean(), abs=1e-4)


def test_logistic_fit_does_not_depend_on_the_unit_of_the_score():
    score_P, same_P = logistic_pairs(300)
    one, other = fit_logistic(score_P, same_P), fit_logistic(score_P / 100 - 7, same_P)
    np.testing.assert_allclose(other.predict(score_P / 100 - 7), one.predict(score_P), rtol=1e-4)


def test_logistic_fit_of_separable_pairs_is_no_step():
    score_P = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    predicted = fit_logistic(score_P, score_P > 0.5).predict(score_P)
    assert (np.diff(predicted) > 0).all()
    assert 0.01 < predicted[0] < 0.5 < predicted[-1] < 0.99


def test_logistic_fit_never_falls():
    score_P, same_P = logistic_pairs(300)
    falling = fit_logistic(-score_P, same_P)
    assert len(set(falling.predict(np.array([-60.0, 0.0, 60.0])).tolist())) == 1
    assert falling.predict(np.array([0.0]))[0] == pytest.approx((same_P.sum() + 1) / 302)


def test_logistic_leaves_unscored_pairs_out():
    score_P, same_P = logistic_pairs(200)
    with_nan = fit_logistic(np.append(score_P, np.nan), np.append(same_P, True))
    assert with_nan == fit_logistic(score_P, same_P)
    assert np.isnan(with_nan.predict(np.array([np.nan]))).all()


@pytest.mark.parametrize("fit", [fit_isotonic, fit_logistic])
def test_a_calibrator_is_the_same_after_json(fit):
    fitted = fit(*logistic_pairs(500))
    assert read_calibrator(json.loads(json.dumps(dataclasses.asdict(fitted)))) == fitted


def test_each_group_has_the_kind_of_fit_that_is_asked_for():
    score_P, same_P = logistic_pairs(800)
    group_P = np.repeat(["cow", "pig"], 400).astype(object)
    logistic = fit_per_group(score_P, same_P, group_P, "logistic")
    assert set(logistic) == {POOLED, "cow", "pig"}
    assert all(isinstance(fit, LogisticCalibrator) for fit in logistic.values())
    assert logistic["cow"] == fit_logistic(score_P[:400], same_P[:400])
    assert fit_per_group(score_P, same_P, group_P)[POOLED] == fit_isotonic(score_P, same_P)
