"""Isotonic calibration against the min-max formula; its undefined cases; which group gets a fit of its own."""

import numpy as np
import pytest

from reid_core.calibration import MIN_POSITIVES, POOLED, Calibrator, fit_isotonic, fit_per_group, predict_per_group


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


@pytest.mark.parametrize(
    ("scores", "same", "expected"),
    [
        ([0.1, 0.5, 0.9], [False] * 3, 1 / 5),
        ([0.1, 0.5, 0.9], [True] * 3, 4 / 5),
        ([0.5] * 4, [True, True, True, False], 4 / 6),
        ([], [], 1 / 2),
        ([np.nan, np.nan], [True, False], 1 / 2),
    ],
)
def test_what_cannot_be_calibrated_is_laplaces_constant(scores, same, expected):
    calibrator = fit_isotonic(np.array(scores, dtype=float), np.array(same, dtype=bool))
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
