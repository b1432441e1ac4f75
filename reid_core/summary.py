"""Metrics as text: `metrics.summarise` of `thresholdSet` and `testSet` → a table for people."""

import math


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
            lines.append(_line(group, values, (f"baks.{group}", f"baus.{group}", key), f"geo_mean_{{}}.{group}"))
        lines.append(_line("mean of groups", values, (None, None, "mean_of_groups"), "mean_of_groups_{}"))
        pooled = ("pooled_baks", "pooled_baus", "pooled")
        lines.append(_line("pooled (the paper's overall)", values, pooled, "pooled_{}"))
        lines.append(_line("  its BAKS alone", values, ("pooled_baks", None, None), "pooled_baks_{}"))
        lines.append(_line("  its BAUS alone", values, (None, "pooled_baus", None), "pooled_baus_{}"))
    return "\n".join(lines)


def _line(name: str, values: dict[str, float], keys: tuple[str | None, ...], bounds: str) -> str:
    scores = [values[key] if key else math.nan for key in keys]
    baks, baus, geo_mean = ("-" if math.isnan(score) else f"{score:.3f}" for score in scores)
    low, high = (values[bounds.format(end)] for end in ("low", "high"))
    span = "" if math.isnan(low) else f"  {low:.3f} … {high:.3f}"
    return f"  {name:<30}{baks:>7}{baus:>7}{geo_mean:>10}{span}"
