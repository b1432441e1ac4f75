"""Fusion: the calibrated probabilities of several matchers → one probability per pair.

probabilities of calibration pairs → weight per matcher; probabilities (Q, B) of each matcher → mean (paper §5.1, §7.3).
Shape letters: Q queries, B shortlist, P calibration pairs, M matchers.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

MIN_PAIRS = 10  # scored by all matchers; fewer say nothing about weights


def fit_fusion_weights(probability_PM: np.ndarray, same_P: np.ndarray) -> np.ndarray:
    """Weights of the matchers whose weighted mean has the smallest Brier score on pairs with known truth.

    Args:
        probability_PM: Calibrated probabilities; pairs that a matcher did not score (NaN) are left out.
        same_P: Whether the pair shows the same animal.

    Returns:
        Weights ≥ 0 with sum 1, shape (M,); equal ones if fewer than `MIN_PAIRS` pairs are left, or all of one class.

    Example:
        >>> same_P = np.arange(20) % 2 == 0
        >>> fit_fusion_weights(np.stack([same_P, np.full(20, 0.5)], axis=1), same_P)  # always right, and a coin
        array([1., 0.])
    """
    num_matchers = probability_PM.shape[1]
    equal_M = np.full(num_matchers, 1 / num_matchers)
    scored_P = ~np.isnan(probability_PM).any(axis=1)
    probability_PM, same_P = probability_PM[scored_P].astype(float), np.asarray(same_P[scored_P], dtype=float)
    if len(same_P) < MIN_PAIRS or same_P.min() == same_P.max():
        return equal_M
    # With Σw = 1 the error of the mean is Rw, R = probability - truth. Least squares of [R; 1] w = [0; 1] over w ≥ 0
    # gives t·v, Σv = 1: the best t leaves |Rv|² / (1 + |Rv|²), which is smallest for the v wanted.
    residual_PM = (probability_PM - same_P[:, None]) / np.sqrt(len(same_P))
    weight_M, _ = nnls(np.vstack([residual_PM, np.ones(num_matchers)]), np.append(np.zeros(len(same_P)), 1.0))
    return weight_M / weight_M.sum() if weight_M.sum() > 0 else equal_M


def fuse(probabilities: Sequence[np.ndarray], weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Weighted mean over the matchers that scored the pair, their weights scaled to sum 1.

    Args:
        probabilities: One array per matcher; shape (Q, B), NaN where it did not score the pair.
        weights: One per matcher, ≥ 0.

    Returns:
        Shape (Q, B), float32; the plain mean where all that scored the pair have weight 0, NaN where none scored it.

    Example:
        >>> fuse([np.array([[0.8, 0.8]]), np.array([[0.4, np.nan]])], [0.75, 0.25])
        array([[0.7, 0.8]], dtype=float32)
    """
    probability_MQB = np.stack(probabilities).astype(float)
    scored_MQB = ~np.isnan(probability_MQB)
    weight_MQB = np.asarray(weights, dtype=float)[:, None, None] * scored_MQB
    weight_MQB = np.where(weight_MQB.sum(axis=0) > 0, weight_MQB, scored_MQB)
    with np.errstate(invalid="ignore"):
        fused_QB = (weight_MQB * np.nan_to_num(probability_MQB)).sum(axis=0) / weight_MQB.sum(axis=0)
    return fused_QB.astype(np.float32)
