"""Candidates of a confirmation, its runs, and what is written and shown of them."""

import argparse
import math

import numpy as np
import pytest

from reid_core.errors import UserError
from reid_core.metrics.confirmation import confirm
from sweeps.results.journal import Record
from sweeps.stages.confirm_best import (
    Confirmation,
    choose_candidates,
    count_whole_runs,
    format_confirmation,
    scores_of,
)
from sweeps.stages.flags import ConfirmSettings, add_confirm_flags, make_confirm_settings


def trial(number, objective=None):
    name = f"trial-{number:04d}"
    if objective is None:
        return Record(name, {}, "pruned")
    return Record(name, {}, "completed", metrics={"objective": objective})


def names(records):
    return [record.name for record in records]


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_confirm_flags(parser)
    return make_confirm_settings(parser.parse_args(arguments))


def test_a_confirmation_that_a_limit_ended_keeps_its_whole_runs():
    candidates = [trial(1, 0.5), trial(0)]
    ended = {f"trial-000{number}-run{run}": "completed" for number, run in ((1, 1), (0, 1), (1, 2), (0, 2), (1, 3))}
    runs = {name: Record(name, {}, status) for name, status in ended.items()}
    assert count_whole_runs(candidates, runs, 3) == 2  # trial-0000 has no third
    runs["trial-0000-run3"] = Record("trial-0000-run3", {}, "running")
    assert count_whole_runs(candidates, runs, 3) == 2
    runs["trial-0000-run3"] = Record("trial-0000-run3", {}, "failed")
    assert count_whole_runs(candidates, runs, 3) == 3
    del runs["trial-0001-run1"]
    assert count_whole_runs(candidates, runs, 3) == 0


def test_flags():
    assert parse() == ConfirmSettings(num_best=3, num_runs=3)
    assert parse().num_trials == 12
    assert parse("--confirm", "0").num_trials == 0
    with pytest.raises(UserError, match=r"--confirm -1"):
        parse("--confirm", "-1")
    with pytest.raises(UserError, match=r"--confirm-runs 1: must be at least 2"):
        parse("--confirm-runs", "1")


def test_the_preset_is_always_a_candidate():
    trials = [trial(0), trial(1, 0.5), trial(2, 0.9), trial(3, 0.7), trial(4, 0.8)]
    assert names(choose_candidates(trials, trials[2], 2)) == ["trial-0002", "trial-0004", "trial-0000"]
    trials[0] = trial(0, 0.85)
    assert names(choose_candidates(trials, trials[2], 2)) == ["trial-0002", "trial-0000"]
    # a Pareto front may pick what has not the best objective
    assert names(choose_candidates(trials, trials[1], 2)) == ["trial-0001", "trial-0002", "trial-0000"]


def test_scores_are_in_the_order_of_candidates_and_runs_and_zero_is_a_score():
    runs = {}
    for candidate, scores in {"trial-0002": (0.5, 0.0), "trial-0000": (None, 0.25)}.items():
        for number, score in enumerate(scores, start=1):
            metrics = {} if score is None else {"objective": score}
            runs[f"{candidate}-run{number}"] = Record("", {}, metrics=metrics)
    score_CR = scores_of([trial(2, 0.9), trial(0)], runs, 2)
    np.testing.assert_array_equal(score_CR, [[0.5, 0.0], [np.nan, 0.25]])


def confirmation():
    candidates = [trial(2, 0.9), trial(0, 0.7)]
    score_CR = np.array([[0.8, 0.7, 0.75], [0.6, 0.6, 0.6]])
    confirmed = confirm(score_CR, preset=1, search_C=[0.9, 0.7], epoch_zero_CR=np.full((2, 3), 0.5))
    return Confirmation(
        best=candidates[0], candidates=candidates, score_CR=score_CR, confirmed=confirmed, winning_runs=[]
    )


def test_the_text_holds_the_numbers():
    lines = format_confirmation(confirmation()).splitlines()
    assert lines[2].split() == ["trial-0002", "0.900", "0.750", "0.800", "0.700", "0.750"]
    assert lines[3].endswith("(the preset)")
    assert lines[4] == "trial-0002 wins"
    assert lines[5].split()[-4] == "0.750"
    assert lines[6].split()[-4] == "+0.150"
    assert lines[7].split()[:3] + lines[7].split()[-4:-3] == ["gain", "over", "the", "+0.250"]
    assert lines[8].endswith("+0.150")  # 0.9 in the search, 0.75 confirmed


def test_what_is_written_is_json_without_nan():
    written = confirmation().describe()
    assert written["winner"] == "trial-0002"
    assert written["score"] == pytest.approx(0.75)
    assert written["gain"] == pytest.approx(0.25)
    assert written["gain_low"] < 0.25 < written["gain_high"]
    assert written["runs"]["trial-0000"] == [0.6, 0.6, 0.6]
    assert all(value is None or isinstance(value, str | dict) or math.isfinite(value) for value in written.values())
