"""Calibration: similarity scores of any scale → probability that two images show the same animal.

scores of pairs with known truth → fitted knots → probabilities (paper §5.1; WildFusion, arXiv 2408.12934).
Shape letters: P pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import IsotonicRegression

POOLED = ""  # key of the calibrator fitted on all groups together
MIN_POSITIVES = 50  # same-animal pairs below which a group's own fit is too noisy


@dataclass(frozen=True)
class Calibrator:
    """A non-decreasing, piecewise linear map from score to probability, constant outside its knots."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def predict(self, score: np.ndarray) -> np.ndarray:
        """Probability in [0, 1] of each score, same shape, float32; NaN (not scored) stays NaN.

        Example:
            >>> Calibrator((0.0, 1.0), (0.2, 0.8)).predict(np.array([0.5, 7.0, np.nan]))
            array([0.5, 0.8, nan], dtype=float32)
        """
        probability = np.interp(score, self.scores, self.probabilities)  # which, with one knot, maps NaN to its value
        return np.where(np.isnan(score), np.nan, probability).astype(np.float32)


def fit_isotonic(score_P: np.ndarray, same_P: np.ndarray) -> Calibrator:
    """Isotonic regression of "same animal" on the score; pairs with a NaN score are left out.

    With one class only, constant scores, or no pair at all the score cannot be calibrated: the result is then the
    constant (positives + 1) / (pairs + 2), Laplace's rule.
    """
    scored_P = ~np.isnan(score_P)
    score_P, same_P = np.asarray(score_P[scored_P], dtype=float), np.asarray(same_P[scored_P], dtype=float)
    if len(score_P) == 0 or same_P.min() == same_P.max() or score_P.min() == score_P.max():
        return Calibrator((0.0,), (float((same_P.sum() + 1) / (len(same_P) + 2)),))
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score_P, same_P)
    return Calibrator(tuple(map(float, fitted.X_thresholds_)), tuple(map(float, fitted.y_thresholds_)))


def fit_per_group(score_P: np.ndarray, same_P: np.ndarray, group_P: np.ndarray) -> dict[str, Calibrator]:
    """One calibrator per group with at least `MIN_POSITIVES` scored same-animal pairs, and the `POOLED` one."""
    calibrators = {POOLED: fit_isotonic(score_P, same_P)}
    for group in np.unique(group_P.astype(str)):
        chosen_P = group_P == group
        if np.sum(same_P[chosen_P] & ~np.isnan(score_P[chosen_P])) >= MIN_POSITIVES:
            calibrators[str(group)] = fit_isotonic(score_P[chosen_P], same_P[chosen_P])
    return calibrators


def predict_per_group(calibrators: Mapping[str, Calibrator], score_QB: np.ndarray, group_Q: np.ndarray) -> np.ndarray:
    """Probability of each score by the calibrator of its row's group, else by the pooled one; same shape."""
    probability_QB = np.empty(score_QB.shape, dtype=np.float32)
    for group in np.unique(group_Q.astype(str)):
        rows = group_Q == group
        probability_QB[rows] = calibrators.get(str(group), calibrators[POOLED]).predict(score_QB[rows])
    return probability_QB
