"""Whether it pays to run the best configurations again (`confirmation`) instead of searching longer.

number of trials + their noise → what to expect of confirmation, and of as many further trials.
Letters: G groups, T trials, C configurations, B simulated sweeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to expect of `num_trials` with confirmation, and of as many runs spent on trials alone. Units: the score's.

    True scores count from the mean configuration's. Optimism is how much better than the truth the reported score is.
    """

    num_trials: int  # with confirmation
    num_reruns: int
    confirmed: float  # mean true score of what confirmation chooses
    raw: float  # mean true score of what has the largest score of num_trials + num_reruns trials
    confirmed_best: float  # how often it is the best of its trials, in [0, 1]
    raw_best: float
    raw_optimism: float

    @property
    def gain(self) -> float:
        """How much better confirmation chooses; negative: worse."""
        return self.confirmed - self.raw

    def describe(self) -> str:
        """Two sentences for `--plan`."""
        better = "better" if self.gain >= 0 else "worse"
        return (
            f"At equal cost confirmation is expected to choose {abs(self.gain):.3f} {better} than the best score of "
            f"{self.num_trials + self.num_reruns} trials. That score would be {self.raw_optimism:.3f} too high; the "
            "confirmed one is not."
        )


def advise(
    *,
    num_trials: int,
    noise_std: float,
    spread_std: float,
    num_confirmed: int = 3,
    num_runs: int = 3,
    repetitions: int = 4000,
    seed: int = 0,
) -> Advice:
    """Simulate whether confirmation chooses better or worse than the largest search score, at equal total cost.

    Levels of configurations and noise are normal. Confirmation has `num_trials`, of which the first is the preset, and
    re-runs the preset and the best others; the alternative spends those re-runs on further trials. A tenth of a second.

    Args:
        num_trials: Trials of the search, the preset among them; at least 2.
        noise_std: Standard deviation of a trial's score around its true one, without what all trials of one split
            share (see `expected_noise`).
        spread_std: Standard deviation of the true scores between configurations.
        num_confirmed: Configurations re-run besides the preset.
        num_runs: Re-runs of each.
        repetitions: Simulated sweeps; 4,000 settle the gain to about 0.01 of `spread_std`.
        seed: Of the simulation.

    Example:
        >>> advise(num_trials=50, noise_std=0.05, spread_std=0.03).gain > 0  # much noise
        True
        >>> advise(num_trials=50, noise_std=0.005, spread_std=0.03).gain > 0  # little: further trials are worth more
        False
    """
    num_confirmed = min(num_confirmed, num_trials - 1)
    num_reruns = (num_confirmed + 1) * num_runs
    rng, sweep_B = np.random.default_rng(seed), np.arange(repetitions)
    true_BT = spread_std * rng.standard_normal((repetitions, num_trials + num_reruns))
    seen_BT = true_BT + noise_std * rng.standard_normal(true_BT.shape)
    best_BC = 1 + np.argsort(-seen_BT[:, 1:num_trials], axis=1)[:, :num_confirmed]
    rerun_BC = np.column_stack([np.zeros(repetitions, dtype=int), best_BC])
    true_BC = np.take_along_axis(true_BT, rerun_BC, axis=1)
    mean_BC = true_BC + noise_std / np.sqrt(num_runs) * rng.standard_normal(true_BC.shape)
    chosen_B, raw_B = rerun_BC[sweep_B, mean_BC.argmax(axis=1)], seen_BT.argmax(axis=1)
    return Advice(
        num_trials=num_trials,
        num_reruns=num_reruns,
        confirmed=float(true_BT[sweep_B, chosen_B].mean()),
        raw=float(true_BT[sweep_B, raw_B].mean()),
        confirmed_best=float(np.mean(chosen_B == true_BT[:, :num_trials].argmax(axis=1))),
        raw_best=float(np.mean(raw_B == true_BT.argmax(axis=1))),
        raw_optimism=float((seen_BT - true_BT)[sweep_B, raw_B].mean()),
    )


def expected_noise(
    num_known_G: Sequence[int] | np.ndarray,
    num_new_G: Sequence[int] | np.ndarray,
    *,
    baks: float = 0.6,
    baus: float = 0.85,
) -> float:
    """Standard error of the mean GEO_MEAN over groups, from the identities in a query set; before any run.

    An answer is right with probability `baks` or `baus`. A known identity has one query, so the variance of its share
    is p · (1 - p); a new one has several, whose answers go together, and is given half. GEO_MEAN then has half the
    relative errors of both, squared and summed (delta method).

    Args:
        num_known_G: Known identities with a query, per group; shape (G,).
        num_new_G: New identities, per group; shape (G,).
        baks: Expected BAKS, in (0, 1].
        baus: Expected BAUS, in (0, 1].

    Returns:
        Of the groups that have both kinds; NaN if none has.

    Example:
        >>> round(expected_noise([66], [5]), 3), round(expected_noise([66, 139, 400], [5, 44, 33]), 3)
        (0.059, 0.023)
    """
    known_G, new_G = np.asarray(num_known_G, dtype=float), np.asarray(num_new_G, dtype=float)
    both_G = (known_G > 0) & (new_G > 0)
    if not both_G.any():
        return float("nan")
    relative_G = (1 - baks) / baks / known_G[both_G] + (1 - baus) / baus / (2 * new_G[both_G])
    return float(np.sqrt(baks * baus * relative_G.sum()) / 2 / both_G.sum())
