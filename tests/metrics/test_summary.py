"""The printed table has every metric with its interval, and a dash where there is none."""

import numpy as np

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
    told = format_metrics({"testSet": summarise({"{0.x} {}": one, "\x1b[2Jcow\n": one})})
    assert "  {0.x} {}  " in told
    assert "  \\x1b[2Jcow\\n  " in told
    assert len(told.splitlines()) == 8
