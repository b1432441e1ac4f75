"""Weights against a search over all weights; the fused probability where matchers are missing."""

import numpy as np
import pytest

from reid_core.scoring.fusion import MIN_PAIRS, fit_fusion_weights, fuse


def brier(probability_PM: np.ndarray, same_P: np.ndarray, weight_M: np.ndarray) -> float:
    return float(np.mean((probability_PM @ weight_M - same_P) ** 2))


def random_matchers(seed: int, num_pairs: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Three matchers, each the truth with its own noise, in [0, 1]."""
    rng = np.random.default_rng(seed)
    same_P = rng.random(num_pairs) < 0.4
    noise_M = rng.uniform(0.1, 0.6, 3)
    return np.clip(same_P[:, None] + noise_M * rng.normal(size=(num_pairs, 3)), 0, 1), same_P


@pytest.mark.parametrize("seed", range(8))
def test_no_weights_on_a_grid_are_better(seed):
    probability_PM, same_P = random_matchers(seed)
    weight_M = fit_fusion_weights(probability_PM, same_P)
    assert weight_M.min() >= 0
    assert weight_M.sum() == pytest.approx(1)
    steps = np.linspace(0, 1, 41)
    tried = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1 + 1e-9]
    assert brier(probability_PM, same_P, weight_M) <= min(brier(probability_PM, same_P, w) for w in tried) + 1e-12


def test_weights_of_two_by_hand():
    """Errors of the two are uncorrelated, of squares 0.01 and 0.04: weights 0.8 and 0.2."""
    same_P = np.repeat([True, False], 8)
    first, second = np.array([0.1, -0.1] * 8), np.array([0.2, 0.2, -0.2, -0.2] * 4)
    probability_PM = same_P[:, None] + np.stack([first, second], axis=1)
    assert fit_fusion_weights(probability_PM, same_P) == pytest.approx([0.8, 0.2])


def test_the_better_matcher_weighs_more():
    rng = np.random.default_rng(0)
    same_P = rng.random(400) < 0.5
    noisy = np.clip(same_P + rng.normal(0, 0.8, 400), 0, 1)
    sharp = np.clip(same_P + rng.normal(0, 0.2, 400), 0, 1)
    weight_M = fit_fusion_weights(np.stack([noisy, sharp], axis=1), same_P)
    assert weight_M[1] > 0.8


def test_pairs_that_one_matcher_did_not_score_are_left_out():
    probability_PM, same_P = random_matchers(3)
    wrong = np.tile([np.nan, 0.0, 1.0], (50, 1))
    more_PM, more_P = np.vstack([probability_PM, wrong]), np.append(same_P, np.ones(50, dtype=bool))
    assert fit_fusion_weights(more_PM, more_P).tolist() == fit_fusion_weights(probability_PM, same_P).tolist()


@pytest.mark.parametrize(
    "keep",
    [
        lambda same_P: np.arange(len(same_P)) < 0,
        lambda same_P: np.arange(len(same_P)) < MIN_PAIRS - 1,
        lambda same_P: same_P,
        lambda same_P: ~same_P,
    ],
)
def test_without_enough_pairs_of_both_kinds_weights_are_equal(keep):
    probability_PM, same_P = random_matchers(4)
    kept_P = keep(same_P)
    assert fit_fusion_weights(probability_PM[kept_P], same_P[kept_P]).tolist() == [1 / 3] * 3
    assert fit_fusion_weights(probability_PM, same_P).tolist() != [1 / 3] * 3


def test_matchers_that_know_nothing_still_get_weights():
    same_P = np.arange(40) % 2 == 0
    assert fit_fusion_weights(np.zeros((40, 2)), same_P).sum() == pytest.approx(1)


def test_fused_by_hand():
    nan = np.nan
    probabilities = [np.array([[0.9, 0.9, nan, nan, nan]]), np.array([[0.3, nan, 0.3, nan, 0.3]])]
    third = np.array([[0.0, 0.0, 0.0, nan, nan]])
    fused = fuse([*probabilities, third], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(fused, [[0.525, 0.6, 0.15, nan, 0.3]], rtol=1e-6)
    # Only matchers of weight 0 scored the third pair: their plain mean.
    np.testing.assert_allclose(fuse([*probabilities, third], [1, 0, 0]), [[0.9, 0.9, 0.15, nan, 0.3]], rtol=1e-6)


def test_equal_weights_give_the_plain_mean_and_stay_within_the_probabilities():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 30, 6)).astype(np.float32)
    assert fuse([first, second], [0.5, 0.5]).tolist() == ((first + second) / 2).tolist()
    fused = fuse([first, second], [0.9, 0.1])
    assert (fused >= np.minimum(first, second) - 1e-6).all()
    assert (fused <= np.maximum(first, second) + 1e-6).all()
