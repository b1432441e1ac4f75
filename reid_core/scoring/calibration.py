"""Calibration: similarity scores of any scale → probability that two images show the same animal.

scores of pairs with known truth → fitted curve → probabilities (paper §5.1; WildFusion, arXiv 2408.12934).
Shape letters: P pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from reid_core.data.animals import positions_by_group

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
        probability = np.interp(score, self.scores, self.probabilities)  # with one knot, NaN would become its value
        return np.where(np.isnan(score), np.nan, probability).astype(np.float32)


@dataclass(frozen=True)
class LogisticCalibrator:
    """The same map as a logistic curve: log-odds = slope · score + intercept, with slope > 0."""

    slope: float
    intercept: float

    def predict(self, score: np.ndarray) -> np.ndarray:
        """Probability in [0, 1] of each score, same shape, float32; NaN (not scored) stays NaN.

        Example:
            >>> LogisticCalibrator(slope=2.0, intercept=-1.0).predict(np.array([0.5, np.nan]))
            array([0.5, nan], dtype=float32)
        """
        return expit(self.slope * np.asarray(score, dtype=float) + self.intercept).astype(np.float32)


AnyCalibrator = Calibrator | LogisticCalibrator


def read_calibrator(values: Mapping[str, Any]) -> AnyCalibrator:
    """The calibrator of which `dataclasses.asdict` gave these values, also after a round trip through JSON.

    Raises:
        KeyError: If a value is missing.

    Example:
        >>> read_calibrator({"scores": [0.0, 1.0], "probabilities": [0.25, 0.75]})
        Calibrator(scores=(0.0, 1.0), probabilities=(0.25, 0.75))
    """
    if "slope" in values:
        return LogisticCalibrator(float(values["slope"]), float(values["intercept"]))
    return Calibrator(tuple(values["scores"]), tuple(values["probabilities"]))


def fit_isotonic(score_P: np.ndarray, same_P: np.ndarray) -> Calibrator:
    """Isotonic regression of "same animal" on the score; pairs with a NaN score are left out.

    With one class only, constant scores, or no pair at all the score cannot be calibrated: the result is then the
    constant (positives + 1) / (pairs + 2), Laplace's rule.
    """
    score_P, same_P = _scored(score_P, same_P)
    if _is_degenerate(score_P, same_P):
        return _constant(same_P)
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score_P, same_P)
    return Calibrator(tuple(map(float, fitted.X_thresholds_)), tuple(map(float, fitted.y_thresholds_)))


def fit_logistic(score_P: np.ndarray, same_P: np.ndarray) -> AnyCalibrator:
    """Logistic regression of "same animal" on the score (Platt's scaling); pairs with a NaN score are left out.

    The score is standardised, so the regulariser (scikit-learn's default), which keeps separable pairs from a step,
    is as strong for cosines as for numbers of matches. Laplace's constant as in `fit_isotonic`, and also where a
    larger score does not make "same animal" more probable.
    """
    score_P, same_P = _scored(score_P, same_P)
    if _is_degenerate(score_P, same_P):
        return _constant(same_P)
    mean, std = score_P.mean(), score_P.std()
    fitted = LogisticRegression().fit(((score_P - mean) / std)[:, None], same_P)
    slope = float(fitted.coef_[0, 0] / std)
    if slope <= 0:
        return _constant(same_P)
    return LogisticCalibrator(slope, float(fitted.intercept_[0] - slope * mean))


def _scored(score_P: np.ndarray, same_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scored_P = ~np.isnan(score_P)
    return np.asarray(score_P[scored_P], dtype=float), np.asarray(same_P[scored_P], dtype=float)


def _is_degenerate(score_P: np.ndarray, same_P: np.ndarray) -> bool:
    return len(score_P) == 0 or same_P.min() == same_P.max() or score_P.min() == score_P.max()


def _constant(same_P: np.ndarray) -> Calibrator:
    return Calibrator((0.0,), (float((same_P.sum() + 1) / (len(same_P) + 2)),))


FITS: dict[str, Callable[[np.ndarray, np.ndarray], AnyCalibrator]] = {
    "isotonic": fit_isotonic,
    "logistic": fit_logistic,
}


def fit_per_group(
    score_P: np.ndarray, same_P: np.ndarray, group_P: np.ndarray, kind: str = "isotonic"
) -> dict[str, AnyCalibrator]:
    """One calibrator per group with at least `MIN_POSITIVES` scored same-animal pairs, and the `POOLED` one."""
    fit = FITS[kind]
    calibrators: dict[str, AnyCalibrator] = {POOLED: fit(score_P, same_P)}
    for group, pairs in positions_by_group(group_P):
        if np.sum(same_P[pairs] & ~np.isnan(score_P[pairs])) >= MIN_POSITIVES:
            calibrators[group] = fit(score_P[pairs], same_P[pairs])
    return calibrators


def predict_per_group(
    calibrators: Mapping[str, AnyCalibrator], score_QB: np.ndarray, group_Q: np.ndarray
) -> np.ndarray:
    """Probability of each score by the calibrator of its row's group, else by the pooled one; same shape."""
    probability_QB = np.empty(score_QB.shape, dtype=np.float32)
    for group, rows in positions_by_group(group_Q):
        probability_QB[rows] = calibrators.get(group, calibrators[POOLED]).predict(score_QB[rows])
    return probability_QB
