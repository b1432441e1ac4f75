"""The numbers of tables 6.1 and 6.2: ours with their intervals, and the paper's beside them. No Ray, no torch.

metrics of each row (`summary.summarise`) → row and group → metric → `Number` (paper §6.1.2, §6.3).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from sweeps.search.paper_numbers import PAPER_61, PAPER_62, PAPER_IMPROVEMENT

Metrics = Mapping[str, float]
RowMetrics = Mapping[str, Mapping[str, Metrics]]  # row name → "thresholdSet" / "testSet" → metric name → value

NAN = math.nan
COLUMNS = {  # table → metric → (heading, whether the paper's number stands beside it)
    "6.1": {
        "threshold": ("threshold", False),
        "baks": ("BAKS", True),
        "baus": ("BAUS", True),
        "geo_mean": ("GEO_MEAN", True),
    },
    "6.2": {
        "pooled_baks": ("BAKS", True),
        "pooled_baus": ("BAUS", True),
        "pooled": ("GEO_MEAN", True),
        "improvement_percent": ("improvement", True),
        "competition": ("competition's mean", False),
        "mean_of_groups": ("mean of defined groups", False),
    },
    "dimensions": {
        "pooled_baks": ("BAKS", False),
        "pooled_baus": ("BAUS", False),
        "pooled": ("GEO_MEAN", False),
        "competition": ("competition's mean", False),
    },
}


class Number(NamedTuple):
    """A metric with its 95 % interval and the paper's own value; NaN where there is none."""

    value: float
    low: float = NAN
    high: float = NAN
    paper: float = NAN


Lines = dict[tuple[str, str], dict[str, Number]]  # (row, group or "") → metric → number


def lines_61(rows: RowMetrics) -> Lines:
    """Of every row and group on `thresholdSet`."""
    groups = groups_of(rows)
    return {(row, group): _group_numbers(row, sets, group) for row, sets in rows.items() for group in groups}


def _group_numbers(row: str, sets: Mapping[str, Metrics], group: str) -> dict[str, Number]:
    metrics = sets.get("thresholdSet", {})
    numbers = {"threshold": Number(_value(metrics, f"threshold.{group}"))}
    paper = PAPER_61.get(row, {}).get(group, (NAN, NAN, NAN))
    for name, published in zip(("baks", "baus", "geo_mean"), paper, strict=True):
        value, low, high = (_value(metrics, f"{name}{end}.{group}") for end in ("", "_low", "_high"))
        numbers[name] = Number(value, low, high, published)
    return numbers


def lines_62(rows: RowMetrics, baseline: str) -> Lines:
    """Of every row on `testSet`, with the improvement over the baseline in per cent."""
    base, lines = score_of_baseline(rows, baseline), {}
    for row, sets in rows.items():
        metrics = sets.get("testSet", {})
        numbers = {name: _overall(metrics, name) for name in COLUMNS["6.2"]}
        for name, published in zip(("pooled_baks", "pooled_baus", "pooled"), PAPER_62.get(row, ()), strict=False):
            numbers[name] = numbers[name]._replace(paper=published)
        gain = 100 * (numbers["pooled"].value / base - 1) if base else NAN
        low, high = (_value(metrics, f"improvement_percent_{end}") for end in ("low", "high"))
        numbers["improvement_percent"] = Number(gain, low, high, PAPER_IMPROVEMENT.get(row, NAN))
        lines[row, ""] = numbers
    return lines


def lines_of_dimensions(rows: RowMetrics) -> Lines:
    """Of `metric_512` and `metric`; empty unless both are there."""
    pair = ("metric_512", "metric")
    if not set(pair) <= set(rows):
        return {}
    return {
        (row, ""): {name: _overall(rows[row].get("testSet", {}), name) for name in COLUMNS["dimensions"]}
        for row in pair
    }


def _overall(metrics: Metrics, name: str) -> Number:
    value, low, high = (_value(metrics, f"{name}{end}") for end in ("", "_low", "_high"))
    return Number(value, low, high)


def score_of_baseline(rows: RowMetrics, baseline: str) -> float:
    """Pooled GEO_MEAN of the baseline on `testSet`."""
    return _value(rows.get(baseline, {}).get("testSet", {}), "pooled")


def groups_of(rows: RowMetrics) -> list[str]:
    """Groups of which any row has a metric on `thresholdSet`, sorted."""
    keys = {key for sets in rows.values() for key in sets.get("thresholdSet", {})}
    return sorted({key.partition(".")[2] for key in keys if key.startswith(("baks.", "baus.", "geo_mean."))})


def _value(metrics: Metrics, key: str) -> float:
    """A metric as a float; NaN where it is missing, None or not finite."""
    value = metrics.get(key)
    return float(value) if value is not None and math.isfinite(value) else NAN
