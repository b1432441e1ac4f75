"""Metrics as text: `evaluate.summarise` of `thresholdSet` and `testSet` → a table for people."""

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
            scores = [values[f"baks.{group}"], values[f"baus.{group}"], values[key]]
            bounds = [values[f"geo_mean_low.{group}"], values[f"geo_mean_high.{group}"]]
            lines.append(_line(group, scores, bounds))
        bounds = [values["mean_of_groups_low"], values["mean_of_groups_high"]]
        lines.append(_line("mean of groups", [math.nan, math.nan, values["mean_of_groups"]], bounds))
        lines.append(_line("pooled (the paper's overall)", [math.nan, math.nan, values["pooled"]], []))
    return "\n".join(lines)


def _line(name: str, scores: list[float], bounds: list[float]) -> str:
    baks, baus, geo_mean = ("-" if math.isnan(score) else f"{score:.3f}" for score in scores)
    span = "" if not bounds or math.isnan(bounds[0]) else f"  {bounds[0]:.3f} … {bounds[1]:.3f}"
    return f"  {name:<30}{baks:>7}{baus:>7}{geo_mean:>10}{span}"
