"""What fine-tuning adds to the frozen backbone (epoch 0): differences on the same queries, with 95 % intervals.

shares right per identity of both, group by group → scores of epoch 0 and differences to it by name (paper §6.0).
Letters: R resamples.
"""

from collections.abc import Callable, Mapping

import numpy as np

from reid_core.metrics.geo_mean import Shares, geo_mean, pool
from reid_core.metrics.intervals import Estimate, bootstrap, interval

Score = Callable[[Shares, int], np.ndarray]  # shares of a group, its position → GEO_MEAN; () or (R,)


def summarise_gain(
    mine: Mapping[str, Shares], epoch0: Mapping[str, Shares], objective: str, *, resamples: int = 2000
) -> dict[str, float]:
    """How much better a model is than the frozen backbone that answered the same queries.

    Args:
        mine: Shares of each group.
        epoch0: The frozen backbone's: of the same groups and identities.
        objective: "mean_of_groups", "pooled" or "worst_group".
        resamples: Of the identities, the same ones for both models.

    Returns:
        `epoch0`, its objective, and `gain`, the difference to it; `epoch0.<group>` and `gain.<group>` of each group's
        GEO_MEAN; each gain with its 95 % interval, `gain_low`, `gain_high.<group>` and so on. NaN where undefined.

    Raises:
        ValueError: If the groups or their numbers of identities differ.

    Example:
        >>> three_of_four, two_of_four = np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
        >>> gain = summarise_gain(
        ...     {"lynx": Shares(three_of_four, np.ones(2))}, {"lynx": Shares(two_of_four, np.ones(2))}, "pooled"
        ... )
        >>> round(gain["epoch0.lynx"], 3), round(gain["gain.lynx"], 3), gain["gain"] == gain["gain.lynx"]
        (0.707, 0.159, True)
    """
    _check_same_queries(mine, epoch0)
    summary = {"epoch0": float(_objective(epoch0, objective, _value))}
    summary |= _with_interval("", _gain(mine, epoch0, objective, resamples))
    for group in mine:
        summary[f"epoch0.{group}"] = geo_mean(epoch0[group])
        of_group = _gain({group: mine[group]}, {group: epoch0[group]}, "worst_group", resamples)
        summary |= _with_interval(f".{group}", of_group)
    return summary


def _gain(mine: Mapping[str, Shares], base: Mapping[str, Shares], objective: str, resamples: int) -> Estimate:
    """Difference of an aggregate, with its interval by resamples of the same identities for both."""

    def draw(shares: Shares, seed: int) -> np.ndarray:
        return bootstrap(shares, resamples=resamples, seed=seed).geo_mean()

    value = float(_objective(mine, objective, _value) - _objective(base, objective, _value))
    low, high = interval(_objective(mine, objective, draw) - _objective(base, objective, draw))
    return Estimate(value, min(low, value), max(high, value))


def _objective(shares_of_group: Mapping[str, Shares], objective: str, score: Score) -> np.ndarray:
    """The aggregate over groups; groups without known or without new identities are left out."""
    if objective == "pooled":
        return score(pool(shares_of_group), 0)
    scores = [score(shares, position) for position, shares in enumerate(shares_of_group.values())]
    defined = [each for each in scores if not np.isnan(each).any()]
    if not defined:
        return np.array(np.nan)
    return np.asarray((np.min if objective == "worst_group" else np.mean)(defined, axis=0))


def _value(shares: Shares, position: int) -> np.ndarray:
    return np.array(geo_mean(shares))


def _check_same_queries(mine: Mapping[str, Shares], base: Mapping[str, Shares]) -> None:
    sizes = [{group: tuple(map(len, shares)) for group, shares in each.items()} for each in (mine, base)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"two models on different queries: {sizes[0]} and {sizes[1]}")


def _with_interval(end: str, estimate: Estimate) -> dict[str, float]:
    return {f"gain{end}": estimate.value, f"gain_low{end}": estimate.low, f"gain_high{end}": estimate.high}
