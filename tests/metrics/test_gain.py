"""The gain over the frozen backbone: by hand, paired, and what has no GEO_MEAN."""

import math

import numpy as np
import pytest

from reid_core.metrics.gain import summarise_gain
from reid_core.metrics.geo_mean import Shares
from reid_core.metrics.intervals import bootstrap_means, interval

NOTHING = np.array([])


def shares(known, new):
    return Shares(np.array(known, dtype=float), np.array(new, dtype=float))


# GEO_MEAN sqrt(0.64 · 1) = 0.8 and sqrt(0.25 · 1) = 0.5; sqrt(0.5 · 0.5) = 0.5 and sqrt(1 · 0.36) = 0.6
MINE = {"cow": shares([0.64, 0.64], [1.0]), "pig": shares([0.5], [0.5])}
FROZEN = {"cow": shares([0.5, 0.0], [1.0]), "pig": shares([1.0], [0.36])}


@pytest.mark.parametrize(
    ("objective", "epoch0", "gain"),
    [
        ("mean_of_groups", 0.55, 0.65 - 0.55),
        ("worst_group", 0.5, 0.0),
        # over all animals: known (0.64 + 0.64 + 0.5) / 3 and 1.5 / 3, new 1.5 / 2 and 1.36 / 2
        ("pooled", math.sqrt(0.5 * 0.68), math.sqrt(1.78 / 3 * 0.75) - math.sqrt(0.5 * 0.68)),
    ],
)
def test_gains_by_hand(objective, epoch0, gain):
    found = summarise_gain(MINE, FROZEN, objective)
    assert [found["epoch0"], found["gain"]] == pytest.approx([epoch0, gain])
    assert [found["epoch0.cow"], found["gain.cow"]] == pytest.approx([0.5, 0.3])
    assert [found["epoch0.pig"], found["gain.pig"]] == pytest.approx([0.6, -0.1])
    assert found["gain_low"] <= found["gain"] <= found["gain_high"]


def test_the_same_answers_gain_nothing_whatever_the_animals():
    same = summarise_gain(FROZEN, FROZEN, "pooled")
    assert {value for name, value in same.items() if name.startswith("gain")} == {0.0}


def test_the_interval_is_that_of_the_same_animals_for_both():
    mine_K, frozen_K = np.array([0.6, 0.5, 0.7, 0.4]), np.array([0.5, 0.4, 0.6, 0.3])  # each animal 0.1 better
    found = summarise_gain({"cow": shares(mine_K, [1.0])}, {"cow": shares(frozen_K, [1.0])}, "pooled", resamples=500)
    draws = [np.sqrt(bootstrap_means(share_K, resamples=500, seed=0)) for share_K in (mine_K, frozen_K)]
    assert (found["gain_low"], found["gain_high"]) == interval(draws[0] - draws[1])
    assert found["gain_low"] > 0  # although either score alone is uncertain by far more than their difference


def test_a_group_without_new_animals_counts_nowhere_and_has_no_gain():
    both = [one | {"ant": Shares(np.array([1.0]), NOTHING)} for one in (MINE, FROZEN)]
    found, without = summarise_gain(*both, "mean_of_groups"), summarise_gain(MINE, FROZEN, "mean_of_groups")
    assert found["gain"] == without["gain"]
    assert math.isnan(found["gain.ant"])
    assert math.isnan(found["gain_low.ant"])
    nowhere = summarise_gain({"ant": both[0]["ant"]}, {"ant": both[1]["ant"]}, "worst_group")
    assert all(math.isnan(value) for value in nowhere.values())


def test_answers_to_other_queries_are_refused():
    with pytest.raises(ValueError, match="different queries"):
        summarise_gain(MINE, {"cow": FROZEN["cow"]}, "pooled")
