"""Metrics as text: `metrics.summarise` of `thresholdSet` and `testSet` → a table for people."""

import math

from reid_core.escape import escape_line


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


def _bounds(name: str) -> tuple[str, str]:
    return f"{name}_low", f"{name}_high"


def _line(name: str, values: dict[str, float], keys: tuple[str | None, ...], bounds: tuple[str, str]) -> str:
    scores = [values[key] if key else math.nan for key in keys]
    baks, baus, geo_mean = ("-" if math.isnan(score) else f"{score:.3f}" for score in scores)
    span = format_interval(*(values[bound] for bound in bounds))
    return f"  {name:<30}{baks:>7}{baus:>7}{geo_mean:>10}  {span}".rstrip()
