"""All metrics of a query set by name, each with its interval, and as a table for people.

shares of each group → metrics by name; those of `thresholdSet` and `testSet` → text (paper §6.0).
"""

import math
from collections.abc import Mapping

import numpy as np

from reid_core.files.escape import escape_line
from reid_core.metrics.geo_mean import Shares, competition_mean, pool
from reid_core.metrics.intervals import UNDEFINED, Estimate, estimate_geo_mean, estimate_mean, estimate_share


def summarise(shares_of_group: Mapping[str, Shares]) -> dict[str, float]:
    """All metrics by name, undefined ones NaN.

    Returns:
        `baks.<group>`, `baus.<group>`, `geo_mean.<group>`; `mean_of_groups` (the sweep's default objective); `pooled`
        (the paper's overall, table 6.2) with `pooled_baks` and `pooled_baus`; `worst_group`, the smallest GEO_MEAN of a
        group; `competition` (AnimalCLEF25's mean). Each with its 95 % interval over identities:
        `geo_mean_low.<group>`, `pooled_high` and so on.
    """
    metrics: dict[str, float] = {}
    defined = []
    for group, shares in shares_of_group.items():
        known, new = estimate_share(shares.known_K), estimate_share(shares.new_K)
        of_group = estimate_geo_mean(known, new)
        defined += [] if np.isnan(of_group.value) else [of_group]
        metrics |= _with_interval("baks", known, f".{group}") | _with_interval("baus", new, f".{group}")
        metrics |= _with_interval("geo_mean", of_group, f".{group}")
    pooled = pool(shares_of_group)
    known, new = estimate_share(pooled.known_K), estimate_share(pooled.new_K)
    competition = estimate_mean(defined, len(shares_of_group))._replace(value=competition_mean(shares_of_group))
    return (
        metrics
        | _with_interval("mean_of_groups", estimate_mean(defined, len(defined)))
        | _with_interval("worst_group", min(defined, default=UNDEFINED))  # the first of a tuple is its value
        | _with_interval("pooled", estimate_geo_mean(known, new))
        | _with_interval("pooled_baks", known)
        | _with_interval("pooled_baus", new)
        | _with_interval("competition", competition)
    )


def _with_interval(name: str, estimate: Estimate, end: str = "") -> dict[str, float]:
    return {f"{name}{end}": estimate.value, f"{name}_low{end}": estimate.low, f"{name}_high{end}": estimate.high}


def format_metrics(metrics: dict[str, dict[str, float]]) -> str:
    """A line per group and per aggregate, GEO_MEAN with its 95 % interval; "-" where a metric is undefined.

    Args:
        metrics: Set name → metrics by name, in the order to print.
    """
    lines = []
    for name, values in metrics.items():
        lines.append(f"{name:<32}{'BAKS':>7}{'BAUS':>7}{'GEO_MEAN':>10}  95 % interval")
        for key in sorted(key for key in values if key.startswith("geo_mean.")):
            group = key.removeprefix("geo_mean.")
            keys = (f"baks.{group}", f"baus.{group}", key)
            bounds = (f"geo_mean_low.{group}", f"geo_mean_high.{group}")
            lines.append(_line(escape_line(group), values, keys, bounds))
        lines.append(_line("mean of groups", values, (None, None, "mean_of_groups"), _bounds("mean_of_groups")))
        lines.append(_line("worst group", values, (None, None, "worst_group"), _bounds("worst_group")))
        pooled = ("pooled_baks", "pooled_baus", "pooled")
        lines.append(_line("pooled (the paper's overall)", values, pooled, _bounds("pooled")))
        lines.append(_line("  its BAKS alone", values, ("pooled_baks", None, None), _bounds("pooled_baks")))
        lines.append(_line("  its BAUS alone", values, (None, "pooled_baus", None), _bounds("pooled_baus")))
    return "\n".join(lines)


def format_interval(low: float | None, high: float | None) -> str:
    """A 95 % interval; empty where there is none.

    Example:
        >>> format_interval(0.25, 0.5), format_interval(math.nan, math.nan), format_interval(None, None)
        ('0.250 … 0.500', '', '')
    """
    return "" if low is None or high is None or math.isnan(low) else f"{low:.3f} … {high:.3f}"


def format_gain(gain: Mapping[str, float], where: str) -> str:
    """What fine-tuning added to the frozen backbone on a query set, a line per group, and what follows from it.

    Args:
        gain: From `gain.summarise_gain`.
        where: Name of the set.

    Example:
        >>> numbers = {"gain": 0.125, "gain_low": -0.0625, "gain_high": 0.25, "epoch0": 0.5}
        >>> print(format_gain(numbers, "testSet"))
        fine-tuning on testSet            epoch 0    gain  95 % interval
          objective                         0.500  +0.125  -0.062 … +0.250
          not shown: the interval contains 0, so the frozen backbone (epoch 0) may be as good
    """
    lines = [f"{f'fine-tuning on {where}':<32}{'epoch 0':>9}{'gain':>8}  95 % interval"]
    groups = sorted(key.removeprefix("gain.") for key in gain if key.startswith("gain."))
    for name, end in [*((escape_line(group), f".{group}") for group in groups), ("objective", "")]:
        before, value = gain[f"epoch0{end}"], gain[f"gain{end}"]
        numbers = f"{'-':>9}{'-':>8}" if math.isnan(value) else f"{before:>9.3f}{value:>+8.3f}"
        lines.append(f"  {name:<30}{numbers}  {format_signed(gain, end)}".rstrip())
    return "\n".join([*lines, *(f"  {verdict}" for verdict in [_judge_gain(gain)] if verdict)])


def format_signed(gain: Mapping[str, float | None], end: str = "") -> str:
    """The 95 % interval of a gain; empty where there is none."""
    low, high = gain.get(f"gain_low{end}"), gain.get(f"gain_high{end}")
    return "" if low is None or high is None or math.isnan(low) else f"{low:+.3f} … {high:+.3f}"


def _judge_gain(gain: Mapping[str, float]) -> str:
    """What an objective's gain says to who asks whether training was worth it."""
    if math.isnan(gain["gain"]):
        return ""
    if gain["gain"] <= 0:
        return "fine-tuning added nothing: the frozen backbone (epoch 0) is as good"
    if gain["gain_low"] <= 0:
        return "not shown: the interval contains 0, so the frozen backbone (epoch 0) may be as good"
    return "fine-tuning is better than the frozen backbone (epoch 0)"


def _bounds(name: str) -> tuple[str, str]:
    return f"{name}_low", f"{name}_high"


def _line(name: str, values: dict[str, float], keys: tuple[str | None, ...], bounds: tuple[str, str]) -> str:
    scores = [values[key] if key else math.nan for key in keys]
    baks, baus, geo_mean = ("-" if math.isnan(score) else f"{score:.3f}" for score in scores)
    span = format_interval(*(values[bound] for bound in bounds))
    return f"  {name:<30}{baks:>7}{baus:>7}{geo_mean:>10}  {span}".rstrip()
