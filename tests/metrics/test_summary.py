"""All metrics by name, each within its interval, and as a table with a dash where one is undefined."""

import math

import numpy as np
import pytest

from reid_core.metrics.geo_mean import Shares
from reid_core.metrics.summary import format_metrics, summarise


def test_every_number_stands_in_its_line_and_undefined_ones_are_dashes():
    cow = Shares(np.array([1.0, 0.5]), np.array([0.48]))
    pig = Shares(np.array([0.6]), np.array([]))
    metrics = summarise({"cow": cow, "pig": pig})
    head, *lines = format_metrics({"testSet": metrics}).splitlines()
    cells = {line[2:32].strip(): line[32:].split(maxsplit=3) for line in lines}
    assert head.split()[:4] == ["testSet", "BAKS", "BAUS", "GEO_MEAN"]
    assert cells["cow"] == ["0.750", "0.480", "0.600", "0.249 … 0.828"]
    assert cells["pig"] == ["0.600", "-", "-"]
    assert cells["mean of groups"] == ["-", "-", "0.600", "0.249 … 0.828"]
    interval = f"{metrics['pooled_low']:.3f} … {metrics['pooled_high']:.3f}"
    assert cells["pooled (the paper's overall)"] == ["0.700", "0.480", "0.580", interval]
    assert cells["its BAKS alone"] == ["0.700", "-", "-", "0.345 … 0.897"]
    assert cells["its BAUS alone"] == ["-", "0.480", "-", "0.116 … 0.871"]


def test_a_group_may_have_any_name_and_moves_no_cursor():
    one = Shares(np.array([1.0, 0.5]), np.array([0.5]))
    text = format_metrics({"testSet": summarise({"{0.x} {}": one, "\x1b[2Jcow\n": one})})
    assert "  {0.x} {}  " in text
    assert "  \\x1b[2Jcow\\n  " in text
    assert len(text.splitlines()) == 8


def test_summary_holds_every_metric_between_its_bounds():
    rng = np.random.default_rng(6)
    groups = {name: Shares(rng.random(12), rng.random(9)) for name in ("cow", "dog")}
    metrics = summarise(groups)
    assert metrics["baks.dog"] == pytest.approx(groups["dog"].known_K.mean())
    assert metrics["pooled_baks"] == pytest.approx(np.mean([groups["cow"].known_K, groups["dog"].known_K]))
    assert metrics["pooled_baus"] == pytest.approx(np.mean([groups["cow"].new_K, groups["dog"].new_K]))
    assert metrics["pooled"] == pytest.approx(math.sqrt(metrics["pooled_baks"] * metrics["pooled_baus"]))
    names = [f"{name}.{group}" for name in ("baks", "baus", "geo_mean") for group in groups]
    names += ["mean_of_groups", "worst_group", "pooled", "pooled_baks", "pooled_baus", "competition"]
    assert len(metrics) == 3 * len(names)
    for name in names:
        first, dot, group = name.partition(".")
        assert metrics[f"{first}_low{dot}{group}"] < metrics[name] < metrics[f"{first}_high{dot}{group}"], name
    worst = min(groups, key=lambda group: metrics[f"geo_mean.{group}"])
    assert metrics["worst_group_high"] == metrics[f"geo_mean_high.{worst}"]
    # More identities, a narrower interval: the pooled one has those of both groups.
    widths = [
        metrics[f"{name}_high{end}"] - metrics[f"{name}_low{end}"]
        for name, end in (("pooled_baks", ""), ("baks", ".cow"))
    ]
    assert widths[0] < widths[1]


def test_without_any_group_every_aggregate_is_undefined():
    metrics = summarise({})
    assert len(metrics) == 18
    assert np.isnan(list(metrics.values())).all()
