"""The winner among configurations that were run again: its score, its gain, and how much too high the search score was.

scores of configurations × runs → winner, its score with an interval, difference to the preset, selection optimism.
Letters: C configurations, R runs.

The score of configuration c in run r (a training seed and a fresh split of `availableSet`, the same for all c) is
level of c + effect of run r + noise. The effect of a run moves all its scores alike and favours no configuration. The
search has it too: its trials share one split, so a search score is off by what that split happened to be, besides being
the largest of many. Intervals are about other seeds and splits of the same photographs; those of `intervals` are about
other animals.

For each run, the winner of the other runs is looked up in this one; the reported score is the mean of these
(cross-fitting, or leave-one-out cross-validation of the choice). It is free of the winner's curse, but varies more than
the winner's mean: where two configurations are close, leaving out a good run of one elects the other. So the interval
reaches from the smaller of both minus the half-width to the larger plus it. Half-widths pool the noise of all
configurations, as in a randomised block design whose blocks are the runs: with 4 configurations and 3 runs 6 degrees of
freedom, not 2. For the score, run effects and noise together have Satterthwaite's degrees (1946, Biometrics Bulletin
2:110).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from reid_core.errors import UserError
from reid_core.metrics.intervals import LEVEL, UNDEFINED, Estimate

SAME = Estimate(0.0, 0.0, 0.0)  # the preset's difference to itself


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """The winner among re-run configurations. Scores are in [0, 1]; an interval is 95 %, NaN where one run is left."""

    winner: int  # row of the best mean
    score: float  # to report: from the runs that did not choose the winner
    score_low: float
    score_high: float
    chosen_mean: float  # the winner's mean over the runs that chose it: expected to be too high
    difference: float  # to the preset, as `score`; exactly 0 if the preset won, NaN without a run of the preset
    difference_low: float
    difference_high: float
    gain: float  # over each run's frozen backbone (epoch 0), as `score`; NaN where that was not measured
    gain_low: float
    gain_high: float
    optimism: float  # search score of the winner - score; NaN without a search score
    mean_C: tuple[float, ...]  # over the compared runs; NaN: not compared, because a run failed
    run_R: tuple[int, ...]  # columns compared
    winner_without_R: tuple[int, ...]  # who wins when this run does not choose, for each of `run_R`


def confirm(
    score_CR: np.ndarray,
    *,
    preset: int = 0,
    search_C: Sequence[float] | np.ndarray | None = None,
    epoch_zero_CR: np.ndarray | None = None,
) -> Confirmed:
    """Choose the best configuration by its mean over runs, and report it by runs that did not choose.

    With gaps, the largest share of failures leaves first, be it a configuration or a run, until none is left; a preset
    that left is compared over the runs that it has. With one run left the search score chooses.

    Args:
        score_CR: Objective of each configuration in each run; shape (C, R), in [0, 1], NaN where it failed.
        preset: Row of the preset.
        search_C: Score of each configuration in the search; shape (C,), NaN for one that was not searched.
        epoch_zero_CR: Objective of the configuration's frozen backbone in each run, on the same queries; as `score_CR`.

    Raises:
        UserError: If no run finished, or one run only is left and there are no search scores to choose by.
        ValueError: If the shapes or the row of the preset do not fit.

    Example:
        >>> result = confirm(np.array([[0.5, 0.5, 0.5], [0.6, 0.8, 0.7], [0.7, 0.6, 0.6]]), search_C=[0.5, 0.75, 0.8])
        >>> result.winner, round(result.chosen_mean, 3), result.winner_without_R  # 0.7 of row 1 against 0.633 of row 2
        (1, 0.7, (1, 2, 1))
        >>> [round(value, 3) for value in (result.score, result.difference, result.optimism)]  # (0.6 + 0.6 + 0.7) / 3
        [0.633, 0.133, 0.117]
    """
    score_CR = np.asarray(score_CR, dtype=float)
    search_C = np.asarray([np.nan] * len(score_CR) if search_C is None else search_C, dtype=float)
    epoch_zero_CR = np.full_like(score_CR, np.nan) if epoch_zero_CR is None else np.asarray(epoch_zero_CR, dtype=float)
    _check_shapes(score_CR, search_C, epoch_zero_CR, preset)
    return _confirm(score_CR, preset, search_C, epoch_zero_CR)


def _confirm(score_CR: np.ndarray, preset: int, search_C: np.ndarray, epoch_zero_CR: np.ndarray) -> Confirmed:
    """See `confirm`; of arrays whose shapes fit."""
    kept_C, run_R = _without_gaps(np.isnan(score_CR))
    block_CR = score_CR[np.ix_(kept_C, run_R)]
    chosen, without_R = _choose(block_CR, search_C[kept_C])
    fold_R = block_CR[without_R, np.arange(len(run_R))]
    score = _enclose(fold_R, block_CR[chosen], *_error_of_score(block_CR), smallest=0)
    gain = _gain(block_CR - epoch_zero_CR[np.ix_(kept_C, run_R)], without_R, chosen)
    winner = int(kept_C[chosen])
    difference = _compare(score_CR[preset, run_R], fold_R, block_CR, chosen) if winner != preset else SAME
    mean_C = np.full(len(score_CR), np.nan)
    mean_C[kept_C] = block_CR.mean(axis=1)
    return Confirmed(
        winner=winner,
        score=score.value,
        score_low=score.low,
        score_high=score.high,
        chosen_mean=float(mean_C[winner]),
        difference=difference.value,
        difference_low=difference.low,
        difference_high=difference.high,
        gain=gain.value,
        gain_low=gain.low,
        gain_high=gain.high,
        optimism=float(search_C[winner] - score.value),
        mean_C=tuple(mean_C.tolist()),
        run_R=tuple(run_R.tolist()),
        winner_without_R=tuple(kept_C[without_R].tolist()),
    )


def _check_shapes(score_CR: np.ndarray, search_C: np.ndarray, epoch_zero_CR: np.ndarray, preset: int) -> None:
    if score_CR.ndim != 2 or search_C.shape != score_CR.shape[:1] or not 0 <= preset < len(score_CR):
        raise ValueError(f"scores {score_CR.shape}, search scores {search_C.shape}, preset {preset} do not fit")
    if epoch_zero_CR.shape != score_CR.shape:
        raise ValueError(f"scores {score_CR.shape} and those of epoch 0 {epoch_zero_CR.shape} do not fit")


def _without_gaps(failed_CR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Configurations and runs left when those with the largest share of failures leave one by one."""
    row_C, run_R = (np.arange(size) for size in failed_CR.shape)
    while failed_CR.any():
        share_C, share_R = failed_CR.mean(axis=1), failed_CR.mean(axis=0)
        if share_C.max() >= share_R.max():
            kept_C = np.arange(len(row_C)) != share_C.argmax()
            row_C, failed_CR = row_C[kept_C], failed_CR[kept_C]
        else:
            kept_R = np.arange(len(run_R)) != share_R.argmax()
            run_R, failed_CR = run_R[kept_R], failed_CR[:, kept_R]
    if not (len(row_C) and len(run_R)):
        raise UserError("confirmation: every run failed, so the result stays unconfirmed")
    return row_C, run_R


def _choose(block_CR: np.ndarray, search_C: np.ndarray) -> tuple[int, np.ndarray]:
    """Row of the winner; and, for each run, row of the winner of the other runs.

    A single run cannot both choose and report: then the search score chooses.
    """
    if block_CR.shape[1] > 1:
        others_CR = block_CR.sum(axis=1, keepdims=True) - block_CR
        return int(block_CR.mean(axis=1).argmax()), others_CR.argmax(axis=0)
    if np.isnan(search_C).all():
        raise UserError("confirmation: one run is left and no search score to choose by: 2 runs are needed")
    chosen = int(np.nanargmax(search_C))
    return chosen, np.array([chosen])


def _error_of_score(block_CR: np.ndarray) -> tuple[float, float]:
    """Standard error of one configuration's mean, run effects included, and its degrees of freedom; NaN for one run.

    The variance of one score, averaged over configurations, is (mean square of runs + (C - 1) · mean square of noise)
    / C. Example by hand: rows (0, 2) and (0, 4) have variances 2 and 8: 5, so the error of a mean of 2 is √2.5.

    >>> error, degrees = _error_of_score(np.array([[0.0, 2.0], [0.0, 4.0]]))
    >>> round(error**2, 6), round(degrees, 2)  # mean squares 9 and 1: (9 + 1)² / (9² / 1 + 1² / 1)
    (2.5, 1.22)
    """
    num_configurations, num_runs = block_CR.shape
    if num_runs == 1:
        return np.nan, np.nan
    runs = num_configurations * np.var(block_CR.mean(axis=0), ddof=1)
    noise, degrees = _noise(block_CR)
    parts = np.array([runs, (num_configurations - 1) * noise]) / num_configurations
    each = parts**2 / [num_runs - 1, max(degrees, 1)]
    together = parts.sum() ** 2 / each.sum() if each.sum() > 0 else num_runs - 1
    return float(np.sqrt(parts.sum() / num_runs)), float(together)


def _noise(block_CR: np.ndarray) -> tuple[float, int]:
    """Mean square of what neither configuration nor run explains, and its degrees of freedom; 0 of them: no noise."""
    degrees = (block_CR.shape[0] - 1) * (block_CR.shape[1] - 1)
    left_CR = block_CR - block_CR.mean(axis=1, keepdims=True) - block_CR.mean(axis=0) + block_CR.mean()
    return (float(np.sum(left_CR**2) / degrees) if degrees else 0.0), degrees


def _compare(preset_R: np.ndarray, fold_R: np.ndarray, block_CR: np.ndarray, chosen: int) -> Estimate:
    """Difference to the preset over the runs that it has, by folds as `confirm` does it, with its interval."""
    has_R = ~np.isnan(preset_R)
    fold_R, chosen_R = (fold_R - preset_R)[has_R], (block_CR[chosen] - preset_R)[has_R]
    num_runs, (noise, degrees) = len(fold_R), _noise(block_CR)
    if not num_runs:
        return UNDEFINED
    if degrees:  # two independent noises in a difference
        return _enclose(fold_R, chosen_R, np.sqrt(2 * noise / num_runs), degrees, smallest=-1)
    error = np.std(chosen_R, ddof=1) / np.sqrt(num_runs) if num_runs > 1 else np.nan
    return _enclose(fold_R, chosen_R, error, max(num_runs - 1, 1), smallest=-1)


def _gain(gain_CR: np.ndarray, without_R: np.ndarray, chosen: int) -> Estimate:
    """Gain over the frozen backbone, by folds as `confirm` does it, with the interval of a score.

    Both answer the same queries of a run, so what makes a split easy cancels; what makes it easy to learn from does
    not, and is the effect of a run.
    """
    if np.isnan(gain_CR).any():
        return UNDEFINED
    fold_R = gain_CR[without_R, np.arange(gain_CR.shape[1])]
    return _enclose(fold_R, gain_CR[chosen], *_error_of_score(gain_CR), smallest=-1)


def _enclose(fold_R: np.ndarray, chosen_R: np.ndarray, error: float, degrees: float, *, smallest: float) -> Estimate:
    """The mean by folds, and the interval that holds those of both means, within [smallest, 1]."""
    ends = np.array([fold_R.mean(), chosen_R.mean()])
    half_width = stdtrit(degrees, (1 + LEVEL) / 2) * error
    low, high = np.clip([ends.min() - half_width, ends.max() + half_width], smallest, 1)
    return Estimate(float(ends[0]), float(low), float(high))
